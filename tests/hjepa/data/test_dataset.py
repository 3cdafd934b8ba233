"""Splits, the decoded cache and the public on-disk formats."""

import multiprocessing
import os
import pickle
import resource
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from hjepa.data import DataConfig, Split, check_data, load_data, load_test
from hjepa.data.cache import mapped, records
from hjepa.data.dataset import _load_data
from hjepa.data.split import stratified_split
from hjepa.schema import ConfigError, Layers, inert_reason

PER_BATCH = 30


def forks(test):
    """A test that forks, from a process in which torch may have started threads; the children use none."""
    test = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")(test)
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")(test)


def all_images(split: Split) -> np.ndarray:
    return split.images(np.arange(len(split)))


@pytest.fixture
def digits(tmp_path: Path) -> DataConfig:
    return DataConfig(cache_dir=str(tmp_path / "cache"))


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, which wrote the public files."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_python2_str(self, obj: bytes) -> None:
        short = len(obj) < 256
        self.write(b"U" + bytes([len(obj)]) if short else b"T" + len(obj).to_bytes(4, "little"))
        self.write(obj)
        self.memoize(obj)

    dispatch[bytes] = save_python2_str


def write_pickle(file: Path, images_NP: np.ndarray, labels: list[int]) -> None:
    with file.open("wb") as stream:
        batch = {b"batch_label": b"a batch", b"labels": labels, b"data": images_NP}
        Python2Pickler(stream, protocol=2).dump(batch)
    # The public files were written before numpy 2 renamed the module.
    file.write_bytes(file.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def write_cifar10(root: Path) -> tuple[Path, Path]:
    """The same few random images in both public formats; the folders."""
    rng = np.random.default_rng(0)
    py, bin_ = root / "cifar-10-batches-py", root / "cifar-10-batches-bin"
    py.mkdir()
    bin_.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        images_NP = rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
        labels = rng.permutation(np.arange(PER_BATCH) % 10).tolist()
        write_pickle(py / name, images_NP, labels)
        rows = np.concatenate([np.array(labels, np.uint8)[:, None], images_NP], axis=1)
        (bin_ / f"{name}.bin").write_bytes(rows.tobytes())
    return py, bin_


@pytest.fixture
def cifar10(tmp_path: Path) -> tuple[Path, Path]:
    return write_cifar10(tmp_path)


def cifar10_config(path: Path, tmp_path: Path) -> DataConfig:
    return DataConfig(dataset="cifar10", data_path=str(path), cache_dir=str(tmp_path / "cache"))


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


# Cache


def test_a_second_load_in_a_process_is_the_same_object(digits: DataConfig):
    assert load_data(digits) is load_data(digits.model_copy(update={"image_size": 8}))


def test_two_loads_share_one_memory_map_file(digits: DataConfig):
    first = load_data(digits).train.stored_MCHW
    (file,) = Path(digits.cache_dir or "").iterdir()
    written_ns = file.stat().st_mtime_ns
    _load_data.cache_clear()
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
    _load_data.cache_clear()
    np.testing.assert_array_equal(all_images(load_data(digits).train), whole)
    assert file.read_bytes() == content


def some_records(count: int = 3) -> np.ndarray:
    return records(np.arange(count * 12, dtype=np.uint8).reshape(count, 3, 2, 2), np.arange(count))


@given(position=st.integers(0, 127), byte=st.integers(0, 255))
def test_no_damage_to_the_header_changes_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
):
    file = tmp_path_factory.mktemp("cache") / "set.npy"
    mapped(file, some_records)
    content = bytearray(file.read_bytes())
    content[position] = byte
    file.write_bytes(content)
    np.testing.assert_array_equal(mapped(file, some_records), some_records())


@forks
def test_processes_that_race_for_the_cache_end_up_with_one_file(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    start, equal = context.Barrier(4), context.Queue()

    def load() -> None:
        start.wait()
        found = mapped(tmp_path / "set.npy", lambda: some_records(5))
        equal.put(found.tobytes() == some_records(5).tobytes())

    processes = [context.Process(target=load) for _ in range(4)]
    for process in processes:
        process.start()
    assert [equal.get(timeout=20) for _ in processes] == [True] * 4
    for process in processes:
        process.join()
    assert [file.name for file in tmp_path.iterdir()] == ["set.npy"]


@forks
def test_a_process_killed_while_writing_leaves_no_cache_file(tmp_path: Path):
    file = tmp_path / "set.npy"

    def die_at_the_fifth_kilobyte() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        mapped(file, lambda: some_records(1000))

    process = multiprocessing.get_context("fork").Process(target=die_at_the_fifth_kilobyte)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGXFSZ
    assert not file.exists()
    assert len(mapped(file, lambda: some_records(1000))) == 1000


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


# CIFAR-10


def test_both_cifar10_formats_and_their_parent_give_equal_arrays(cifar10: tuple[Path, Path], tmp_path: Path):
    py, bin_ = (load_data(cifar10_config(path, tmp_path)) for path in cifar10)
    parent = load_data(cifar10_config(tmp_path, tmp_path))
    assert len(py.train) + len(py.val) == 5 * PER_BATCH
    for other in (bin_, parent):
        np.testing.assert_array_equal(all_images(py.train), all_images(other.train))
        np.testing.assert_array_equal(py.val.labels_N, other.val.labels_N)


def test_a_cifar10_record_is_a_label_then_red_green_and_blue_planes(
    cifar10: tuple[Path, Path], tmp_path: Path
):
    row = np.frombuffer((cifar10[1] / "test_batch.bin").read_bytes()[: 1 + 3072], np.uint8)
    test = load_test(cifar10_config(cifar10[1], tmp_path))
    assert len(test) == PER_BATCH
    assert test.labels_N[0] == row[0]
    image = test.images(np.array([0]))[0]
    assert image.shape == (3, 32, 32)
    assert image[1, 2, 3] == row[1 + 1024 + 2 * 32 + 3]


def test_a_changed_source_file_is_decoded_again(cifar10: tuple[Path, Path], tmp_path: Path):
    config = cifar10_config(cifar10[1], tmp_path)
    before = len(load_test(config))
    file = cifar10[1] / "test_batch.bin"
    file.write_bytes(file.read_bytes() * 2)
    assert len(load_test(config)) == 2 * before


class Malice:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_a_pickle_that_runs_code_is_refused(
    cifar10: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    file = cifar10[0] / "data_batch_3"
    file.write_bytes(pickle.dumps({"data": Malice()}))
    with pytest.raises(ConfigError, match=r"data_batch_3 is damaged: it names pathlib.*touch"):
        load_data(cifar10_config(cifar10[0], tmp_path))
    assert not Path("executed").exists()


def write_row_of_label_11(file: Path) -> None:
    file.write_bytes(bytes([11]) + bytes(3072))


@pytest.mark.parametrize(
    ("folder", "damage", "message"),
    [
        (0, lambda file: file.write_bytes(file.read_bytes()[:-500]), "test_batch is damaged"),
        (0, lambda file: file.write_bytes(b""), "test_batch is damaged"),
        (0, lambda file: file.write_bytes(b"<html>not found</html>"), "test_batch is damaged"),
        (0, lambda file: file.write_bytes(pickle.dumps([1])), "holds a list, not a dictionary"),
        (0, lambda file: write_pickle(file, np.zeros((2, 9), np.uint8), [0, 1]), r"shape \(2, 9\)"),
        (0, lambda file: write_pickle(file, np.zeros((2, 3072)), [0, 1]), "not a uint8 array"),
        (0, lambda file: write_pickle(file, np.zeros((2, 3072), np.uint8), [0]), "2 images but 1 labels"),
        (0, lambda file: write_pickle(file, np.zeros((1, 3072), np.uint8), [-1]), "outside 0 to 9"),
        (1, lambda file: file.write_bytes(file.read_bytes()[:-1]), "not a whole number"),
        (1, lambda file: file.write_bytes(b""), "not a whole number"),
        (1, write_row_of_label_11, "outside 0 to 9"),
    ],
)
def test_a_damaged_batch_is_an_error_that_names_the_file(
    cifar10: tuple[Path, Path], tmp_path: Path, folder: int, damage, message: str
):
    file = cifar10[folder] / ("test_batch", "test_batch.bin")[folder]
    damage(file)
    with pytest.raises(ConfigError, match=message) as raised:
        load_test(cifar10_config(cifar10[folder], tmp_path))
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, r"null is not allowed with data\.dataset cifar10"),
        ("missing", r"'missing' does not exist"),
        ("file", r"'file' is not a folder"),
        ("empty", r"'empty' holds no CIFAR-10 batches"),
    ],
)
def test_data_that_is_not_there_is_one_message_that_says_how_to_mend_it(
    path: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=message) as raised:
        check_data(DataConfig(dataset="cifar10", data_path=path, cache_dir="cache"))
    assert str(raised.value).startswith("data.data_path: ")
    assert "cifar-10-python.tar.gz" in str(raised.value)


def test_a_missing_batch_is_named(cifar10: tuple[Path, Path], tmp_path: Path):
    (cifar10[1] / "data_batch_4.bin").unlink()
    with pytest.raises(ConfigError, match=r"cifar-10-batches-bin is incomplete, it lacks data_batch_4\.bin"):
        check_data(cifar10_config(cifar10[1], tmp_path))


def test_checking_data_writes_nothing(cifar10: tuple[Path, Path], tmp_path: Path):
    check_data(cifar10_config(cifar10[0], tmp_path))
    assert not (tmp_path / "cache").exists()


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
