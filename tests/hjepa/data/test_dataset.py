"""Splits, the decoded cache and the public on-disk formats."""

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from hjepa.data import DataConfig, Split, load_data, load_test
from hjepa.data.cache import mapped, records
from hjepa.data.decode import Skipped
from hjepa.data.digits import find
from hjepa.data.loaded import load_one, load_part
from hjepa.data.split import stratified_split
from hjepa.schema import ConfigError, Layers, inert_reason
from hjepa.temporary import remove_abandoned, temporary


def forks(test):
    """A test that forks, from a process in which torch may have started threads; the children use none."""
    test = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")(test)
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")(test)


def forget() -> None:
    """As in a new process."""
    load_one.cache_clear()
    load_part.cache_clear()


def all_images(split: Split) -> np.ndarray:
    return split.images(np.arange(len(split)))


@pytest.fixture
def digits(tmp_path: Path) -> DataConfig:
    return DataConfig(cache_dir=str(tmp_path / "cache"))


# Splits


def test_train_val_and_test_are_a_partition_of_all_digits(digits: DataConfig):
    data = load_data(digits)
    found = Counter(
        (image.tobytes(), int(label))
        for split in (data.train, data.val, load_test(digits))
        for image, label in zip(all_images(split), split.labels_N, strict=True)
    )
    images, labels = load_digits(return_X_y=True)
    grey = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8).repeat(3, axis=1)
    assert found == Counter((image.tobytes(), int(label)) for image, label in zip(grey, labels, strict=True))


def test_what_is_evaluated_on_of_several_data_sets_changes_nothing_where_there_is_one(digits: DataConfig):
    named = digits.model_copy(update={"evaluate_on": "stl10"})
    assert len(load_test(named)) == len(load_test(digits))


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_size_of_digits_is_told_before_they_are_decoded(digits: DataConfig, part: str):
    source, skipped = find(digits), Skipped(0, part)
    assert source.decoded_bytes(part) == sum(chunk.nbytes for chunk in source.decode(part, skipped))


def test_train_and_val_share_no_image(digits: DataConfig):
    data = load_data(digits)
    assert not set(data.train.indices_N) & set(data.val.indices_N)


def test_splits_hold_every_class_in_proportion(digits: DataConfig):
    data = load_data(digits)
    train_C, val_C = np.bincount(data.train.labels_N), np.bincount(data.val.labels_N)
    np.testing.assert_allclose(val_C / (train_C + val_C), digits.val_fraction, atol=0.01)


def test_the_split_depends_on_its_seed_only(digits: DataConfig, tmp_path: Path):
    data = load_data(digits)
    elsewhere = load_data(digits.model_copy(update={"cache_dir": str(tmp_path / "other"), "batch_size": 8}))
    reseeded = load_data(digits.model_copy(update={"split_seed": 1}))
    np.testing.assert_array_equal(data.val.indices_N, elsewhere.val.indices_N)
    assert set(data.val.indices_N) != set(reseeded.val.indices_N)


def test_the_test_set_does_not_depend_on_the_split(digits: DataConfig):
    other = digits.model_copy(update={"split_seed": 1, "val_fraction": 0.5})
    np.testing.assert_array_equal(all_images(load_test(digits)), all_images(load_test(other)))


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 99),
)
def test_every_class_of_two_or_more_is_on_both_sides(labels: list[int], fraction: float, seed: int):
    labels_N = np.array(labels)
    kept, held = stratified_split(labels_N, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for label, count in Counter(labels).items():
        assert (labels_N[kept] == label).any()
        assert (labels_N[held] == label).any() == (count > 1)


def test_mean_and_std_are_those_of_the_training_pixels(digits: DataConfig):
    data = load_data(digits)
    pixels = all_images(data.train) / 255
    np.testing.assert_allclose(data.mean_C, pixels.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(data.std_C, pixels.std(axis=(0, 2, 3)), rtol=1e-5)


def test_mean_and_std_of_many_images_are_those_of_a_sample(
    digits: DataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    whole = load_data(digits)
    monkeypatch.setattr("hjepa.data.loaded._STATISTICS_BYTES", 300 * 3 * 8 * 8)
    sampled = load_data(digits.model_copy(update={"cache_dir": str(tmp_path / "other")}))
    assert (sampled.mean_C != whole.mean_C).all()
    np.testing.assert_allclose(sampled.mean_C, whole.mean_C, rtol=0.02)
    np.testing.assert_allclose(sampled.std_C, whole.std_C, rtol=0.02)


# Cache


def test_a_second_load_in_a_process_is_the_same_object(digits: DataConfig):
    assert load_data(digits) is load_data(digits.model_copy(update={"image_size": 8}))


def test_two_loads_share_one_memory_map_file(digits: DataConfig):
    first = load_data(digits).train.stored_MCHW
    (file,) = Path(digits.cache_dir or "").iterdir()
    written_ns = file.stat().st_mtime_ns
    forget()
    second = load_data(digits).val.stored_MCHW
    assert isinstance(first, np.memmap)
    assert isinstance(second, np.memmap)
    assert first.filename == second.filename == file
    assert file.stat().st_mtime_ns == written_ns
    assert not second.flags.writeable


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:40], lambda data: b"", lambda data: b"x" * 9999]
)
def test_a_damaged_cache_file_is_built_again(digits: DataConfig, damage):
    whole = all_images(load_data(digits).train)
    (file,) = Path(digits.cache_dir or "").iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    forget()
    np.testing.assert_array_equal(all_images(load_data(digits).train), whole)
    assert file.read_bytes() == content


def some_records(count: int = 3) -> np.ndarray:
    return records(np.arange(count * 12, dtype=np.uint8).reshape(count, 3, 2, 2), np.arange(count))


def test_chunks_are_stored_as_one_array_of_records(tmp_path: Path):
    whole = some_records(20)
    stored = mapped(tmp_path / "set.npy", lambda: iter([whole[:3], whole[3:4], whole[4:]]))
    np.testing.assert_array_equal(stored, whole)
    np.testing.assert_array_equal(np.load(tmp_path / "set.npy"), whole)


def test_an_error_while_decoding_leaves_no_file(tmp_path: Path):
    def decode():
        yield some_records()
        raise ConfigError("damaged")

    with pytest.raises(ConfigError, match="damaged"):
        mapped(tmp_path / "set.npy", decode)
    assert not list(tmp_path.iterdir())


@given(position=st.integers(0, 127), byte=st.integers(0, 255))
def test_no_damage_to_the_header_changes_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
):
    file = tmp_path_factory.mktemp("cache") / "set.npy"
    mapped(file, lambda: [some_records()])
    content = bytearray(file.read_bytes())
    content[position] = byte
    file.write_bytes(content)
    np.testing.assert_array_equal(mapped(file, lambda: [some_records()]), some_records())


@forks
def test_processes_that_race_for_the_cache_end_up_with_one_file(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    start, equal = context.Barrier(4), context.Queue()

    def load() -> None:
        start.wait()
        found = mapped(tmp_path / "set.npy", lambda: [some_records(5)])
        equal.put(found.tobytes() == some_records(5).tobytes())

    processes = [context.Process(target=load) for _ in range(4)]
    for process in processes:
        process.start()
    assert [equal.get(timeout=20) for _ in processes] == [True] * 4
    for process in processes:
        process.join()
    assert [file.name for file in tmp_path.iterdir()] == ["set.npy"]


@forks
def test_of_processes_that_find_no_cache_one_decodes(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    start, decoded = context.Barrier(3), context.Value("i", 0)

    def decode():
        with decoded.get_lock():
            decoded.value += 1
        time.sleep(0.3)
        yield some_records(5)

    def load() -> None:
        start.wait()
        mapped(tmp_path / "set.npy", decode)

    processes = [context.Process(target=load) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert decoded.value == 1


@forks
def test_a_process_killed_while_writing_leaves_no_cache_file(tmp_path: Path):
    file = tmp_path / "set.npy"

    def die_at_the_fifth_kilobyte() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        mapped(file, lambda: [some_records(1000)])

    process = multiprocessing.get_context("fork").Process(target=die_at_the_fifth_kilobyte)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGXFSZ
    assert not file.exists()
    assert len(list(tmp_path.glob(".set.npy.*.tmp"))) == 1
    assert len(mapped(file, lambda: [some_records(1000)])) == 1000
    assert [left.name for left in tmp_path.iterdir()] == ["set.npy"]


def test_what_is_still_being_written_is_not_taken_for_abandoned(tmp_path: Path):
    with temporary(tmp_path / "set.npy") as file, temporary(tmp_path / "set", folder=True) as folder:
        remove_abandoned(tmp_path, ".set*")
        assert file.exists()
        assert folder.exists()
    assert not list(tmp_path.iterdir())


def test_what_another_machine_left_is_kept_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / ".set.npy.another.x.tmp"
    file.touch()
    remove_abandoned(tmp_path, ".set.npy.*")
    assert file.exists()
    os.utime(file, (0, 0))
    remove_abandoned(tmp_path, ".set.npy.*")
    assert not file.exists()


@forks
def test_a_long_decoding_keeps_nobody_from_another_data_set(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    begun, done = context.Event(), context.Event()

    def decode():
        begun.set()
        done.wait()
        yield some_records(5)

    large = context.Process(target=mapped, args=(tmp_path / "large.npy", decode))
    small = context.Process(target=mapped, args=(tmp_path / "small.npy", lambda: [some_records(2)]))
    large.start()
    assert begun.wait(20)
    small.start()
    small.join(20)
    assert small.exitcode == 0
    done.set()
    large.join()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.npy", "small.npy"]


def test_waiting_for_another_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("hjepa.data.cache._PATIENCE_S", 0.0)
    file, begun, done = tmp_path / "set.npy", threading.Event(), threading.Event()

    def decode():
        begun.set()
        done.wait()
        yield some_records(5)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(mapped, file, decode)
        assert begun.wait(20)
        second = pool.submit(mapped, file, lambda: pytest.fail("decoded twice"))
        while not caplog.messages:
            time.sleep(0.01)
        done.set()
        np.testing.assert_array_equal(first.result(), second.result())
    assert caplog.messages == [f"waits for another process that decodes {file}"]


def test_a_cache_dir_that_cannot_be_written_is_one_clear_message(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"data\.cache_dir: .*/file/cache cannot be written: Not a directory"
    ):
        load_data(DataConfig(cache_dir=str(tmp_path / "file" / "cache")))


def test_the_default_cache_dir_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_test(DataConfig())
    assert [file.parent for file in tmp_path.rglob("*.npy")] == [tmp_path / "hjepa"]


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 9)
    with pytest.raises(ConfigError, match=r"^data\.cache_dir: there is no home folder; set this key or HOME"):
        load_test(DataConfig())


def test_a_data_path_in_the_home_folder_of_nobody_does_not_exist():
    with pytest.raises(ConfigError, match=r"data\.data_path: '~no-such-user/data' does not exist"):
        load_data(DataConfig(dataset="cifar10", data_path="~no-such-user/data"))


# Config


def test_lists_and_true_from_yaml_are_a_range_and_a_probability():
    layers = Layers()
    layers.add({"augmentation": {"crop_scale": [0.3, 1], "horizontal_flip": True}}, "file.yaml")
    config = layers.build(DataConfig, "file.yaml")
    assert config.augmentation.crop_scale == (0.3, 1.0)
    assert config.augmentation.flip_probability == 0.5


@pytest.mark.parametrize(
    "augmentation",
    [
        {"crop_scale": [0.0, 1.0]},
        {"crop_scale": [0.9, 0.5]},
        {"crop_scale": [0.5, 1.5]},
        {"horizontal_flip": 1.5},
        {"horizontal_flip": "yes"},
        {"color_jitter": 2},
    ],
)
def test_what_is_out_of_range_is_refused_by_key(augmentation: dict):
    layers = Layers()
    layers.add({"augmentation": augmentation}, "file.yaml")
    with pytest.raises(ConfigError, match=r"^file\.yaml: augmentation\.\w+: .* is not allowed"):
        layers.build(DataConfig, "file.yaml")


def test_keys_that_cannot_matter_are_known():
    config = DataConfig.model_validate({"augmentation": {"random_crop": False}})
    assert inert_reason(config, "data_path") == "digits is embedded"
    assert inert_reason(config, "augmentation.crop_scale") == "random_crop is false"
    assert inert_reason(DataConfig(dataset="cifar10"), "data_path") is None
    assert inert_reason(DataConfig(), "augmentation.crop_scale") is None
