"""STL-10 from its public files, the unlabelled images included."""

from pathlib import Path

import numpy as np
import pytest

from hjepa.data import DataConfig, Split, check_data, load_data, load_test
from hjepa.data.stream import Streamed
from hjepa.schema import ConfigError, inert_reason

COUNTS = {"train": 40, "test": 20, "unlabeled": 30}


def all_images(split: Split) -> np.ndarray:
    return split.images(np.arange(len(split)))


def random_images(part: str) -> np.ndarray:
    seed = list(COUNTS).index(part)
    return np.random.default_rng(seed).integers(0, 256, (COUNTS[part], 3, 96, 96), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in the public format, column-major, with labels from 1."""
    found = tmp_path / "stl10_binary"
    found.mkdir()
    for part, count in COUNTS.items():
        by_column = [plane.tobytes(order="F") for image in random_images(part) for plane in image]
        (found / f"{part}_X.bin").write_bytes(b"".join(by_column))
        if part != "unlabeled":
            (found / f"{part}_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(count)))
    return found


def config(folder: Path, unlabeled: bool = False) -> DataConfig:
    cache = str(folder.parent / "cache")
    return DataConfig(dataset="stl10", data_path=str(folder), cache_dir=cache, unlabeled=unlabeled)


def test_images_are_upright_and_labels_count_from_0(folder: Path):
    test = load_test(config(folder))
    np.testing.assert_array_equal(all_images(test), random_images("test"))
    np.testing.assert_array_equal(test.labels_N, np.arange(20) % 10)


def test_the_parent_folder_will_do(folder: Path):
    data = load_data(config(folder.parent))
    assert len(data.train) + len(data.val) == 40
    assert data.num_classes == 10


def test_without_unlabelled_images_the_bank_is_what_is_learnt_from(folder: Path):
    data = load_data(config(folder))
    assert data.bank is data.train


def test_unlabelled_images_are_learnt_from_and_nothing_else(folder: Path):
    plain, data = load_data(config(folder)), load_data(config(folder, unlabeled=True))
    np.testing.assert_array_equal(all_images(data.bank), all_images(plain.bank))
    np.testing.assert_array_equal(data.bank.labels_N, plain.bank.labels_N)
    np.testing.assert_array_equal(all_images(data.val), all_images(plain.val))
    np.testing.assert_array_equal(data.val.labels_N, plain.val.labels_N)
    learnt = np.concatenate([all_images(plain.train), random_images("unlabeled")])
    np.testing.assert_array_equal(all_images(data.train), learnt)
    assert (data.train.labels_N[-30:] == -1).all()
    assert (data.bank.labels_N >= 0).all()


def test_the_unlabelled_file_is_needed_only_where_it_is_learnt_from(folder: Path):
    (folder / "unlabeled_X.bin").unlink()
    check_data(config(folder))
    with pytest.raises(ConfigError, match=r"stl10_binary is incomplete, it lacks unlabeled_X\.bin"):
        check_data(config(folder, unlabeled=True))


@pytest.mark.parametrize("path", [None, "missing", "."])
def test_files_that_are_not_there_are_one_message_with_the_mend(path: str | None, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^data\.data_path: ") as raised:
        check_data(DataConfig(dataset="stl10", data_path=path and str(tmp_path / path)))
    assert "stl10_binary.tar.gz" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train_X.bin", lambda data: data[:-1], "not a whole number of 27,648-byte images"),
        ("train_X.bin", lambda data: b"", "not a whole number"),
        ("train_X.bin", lambda data: data[:-27648], r"it holds 39 images but train_y\.bin 40 labels"),
        ("train_y.bin", lambda data: b"\0" + data[1:], "labels outside 1 to 10"),
        ("train_y.bin", lambda data: b"\x0b" + data[1:], "labels outside 1 to 10"),
        ("train_y.bin", lambda data: b"", "empty"),
        ("unlabeled_X.bin", lambda data: data[:-1], "not a whole number"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(folder: Path, name: str, damage, message: str):
    file = folder / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ConfigError, match=f"is damaged: .*{message}") as raised:
        load_data(config(folder, unlabeled=True))
    assert str(file) in str(raised.value)


def test_over_the_budget_the_files_are_read_in_place(folder: Path):
    cached = load_data(config(folder, unlabeled=True))
    streamed = load_data(config(folder, unlabeled=True).model_copy(update={"cache_budget_gb": 1e-9}))
    assert isinstance(streamed.train.stored_MCHW, Streamed)
    for name in ("train", "bank", "val"):
        np.testing.assert_array_equal(all_images(getattr(streamed, name)), all_images(getattr(cached, name)))
    np.testing.assert_array_equal(streamed.train.labels_N, cached.train.labels_N)


def test_unlabeled_matters_to_stl10_alone(folder: Path):
    assert inert_reason(config(folder), "unlabeled") is None
    assert inert_reason(DataConfig(), "unlabeled") == "digits has no unlabelled images"
