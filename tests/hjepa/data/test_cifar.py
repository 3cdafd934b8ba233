"""CIFAR-10 and CIFAR-100 from both of their public formats."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from hjepa.data import DataConfig, Split, check_data, load_data, load_test
from hjepa.schema import ConfigError

PER_BATCH = 30


def all_images(split: Split) -> np.ndarray:
    return split.images(np.arange(len(split)))


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, which wrote the public files."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_python2_str(self, obj: bytes) -> None:
        short = len(obj) < 256
        self.write(b"U" + bytes([len(obj)]) if short else b"T" + len(obj).to_bytes(4, "little"))
        self.write(obj)
        self.memoize(obj)

    dispatch[bytes] = save_python2_str


def write_pickle(file: Path, images_NP: np.ndarray, labels: list[int], key: bytes = b"labels") -> None:
    with file.open("wb") as stream:
        batch = {b"batch_label": b"a batch", key: labels, b"data": images_NP}
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


# CIFAR-100


def write_cifar100(root: Path) -> tuple[Path, Path]:
    """The same random images in both public formats, two of each class per file; the folders."""
    rng = np.random.default_rng(0)
    py, bin_ = root / "cifar-100-python", root / "cifar-100-binary"
    py.mkdir()
    bin_.mkdir()
    for name in ("train", "test"):
        images_NP = rng.integers(0, 256, (200, 3072), dtype=np.uint8)
        fine = rng.permutation(np.arange(200) % 100)
        write_pickle(py / name, images_NP, fine.tolist(), b"fine_labels")
        labels = np.stack([fine // 5, fine], axis=1).astype(np.uint8)
        (bin_ / f"{name}.bin").write_bytes(np.concatenate([labels, images_NP], axis=1).tobytes())
    return py, bin_


@pytest.fixture
def cifar100(tmp_path: Path) -> tuple[Path, Path]:
    return write_cifar100(tmp_path)


def cifar100_config(path: Path, tmp_path: Path) -> DataConfig:
    return DataConfig(dataset="cifar100", data_path=str(path), cache_dir=str(tmp_path / "cache"))


def test_both_cifar100_formats_and_their_parent_give_equal_arrays(
    cifar100: tuple[Path, Path], tmp_path: Path
):
    py, bin_ = (load_data(cifar100_config(path, tmp_path)) for path in cifar100)
    parent = load_data(cifar100_config(tmp_path, tmp_path))
    assert py.num_classes == 100
    assert len(py.train) + len(py.val) == 200
    for other in (bin_, parent):
        np.testing.assert_array_equal(all_images(py.train), all_images(other.train))
        np.testing.assert_array_equal(py.val.labels_N, other.val.labels_N)


def test_a_cifar100_record_is_a_coarse_and_a_fine_label_then_the_planes(
    cifar100: tuple[Path, Path], tmp_path: Path
):
    row = np.frombuffer((cifar100[1] / "test.bin").read_bytes()[:3074], np.uint8)
    test = load_test(cifar100_config(cifar100[1], tmp_path))
    assert len(test) == 200
    assert test.labels_N[0] == row[1]
    assert test.labels_N[0] // 5 == row[0]
    np.testing.assert_array_equal(all_images(test)[0].ravel(), row[2:])


def test_cifar10_files_are_no_cifar100(cifar10: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no CIFAR-100 batches") as raised:
        check_data(cifar100_config(tmp_path, tmp_path))
    assert "cifar-100-python.tar.gz" in str(raised.value)


def test_a_missing_cifar100_file_is_named(cifar100: tuple[Path, Path], tmp_path: Path):
    (cifar100[0] / "test").unlink()
    with pytest.raises(ConfigError, match="cifar-100-python is incomplete, it lacks test"):
        check_data(cifar100_config(cifar100[0], tmp_path))


@pytest.mark.parametrize(
    ("folder", "damage", "message"),
    [
        (0, lambda file: file.write_bytes(file.read_bytes()[:-500]), "test is damaged"),
        (
            0,
            lambda file: write_pickle(file, np.zeros((1, 3072), np.uint8), [0]),
            "`fine_labels` is not a list",
        ),
        (1, lambda file: file.write_bytes(file.read_bytes()[:-1]), "not a whole number of 3,074-byte images"),
        (1, lambda file: file.write_bytes(bytes([0, 100]) + bytes(3072)), "outside 0 to 99"),
    ],
)
def test_a_damaged_cifar100_file_is_an_error_that_names_it(
    cifar100: tuple[Path, Path], tmp_path: Path, folder: int, damage, message: str
):
    file = cifar100[folder] / ("test", "test.bin")[folder]
    damage(file)
    with pytest.raises(ConfigError, match=message) as raised:
        load_test(cifar100_config(cifar100[folder], tmp_path))
    assert str(file) in str(raised.value)
