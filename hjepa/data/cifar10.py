"""CIFAR-10 (Krizhevsky, 2009) from its public files, the Python pickles or the binary version.

https://www.cs.toronto.edu/~kriz/cifar.html
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.data.cache import records
from hjepa.schema import ConfigError

NUM_CLASSES = 10
IMAGE_SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32
_FOLDERS = {"cifar-10-batches-py": "", "cifar-10-batches-bin": ".bin"}
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_MEND = (
    "Unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (or cifar-10-binary.tar.gz) and set "
    "data.data_path to the folder that holds cifar-10-batches-py (or cifar-10-batches-bin)."
)


def find_files(data_path: str | None) -> tuple[Path, ...]:
    """The five training batches and the test batch, in order.

    `data_path` is the folder of the batches or its parent. Raises ConfigError where they are not there.
    """
    if data_path is None:
        raise ConfigError(f"data.data_path: null is not allowed with data.dataset cifar10.\n{_MEND}")
    root = Path(data_path).expanduser()
    try:
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise ConfigError(f"data.data_path: {data_path!r} {problem}.\n{_MEND}")
        candidates = [
            [folder / f"{batch}{suffix}" for batch in _BATCHES]
            for name, suffix in _FOLDERS.items()
            for folder in (root, root / name)
        ]
        present = [sum(file.is_file() for file in files) for files in candidates]
        best = max(range(len(candidates)), key=present.__getitem__)
        missing = [file for file in candidates[best] if not file.is_file()]
    except OSError as error:
        raise ConfigError(f"data.data_path: {data_path!r} cannot be read: {error.strerror}.") from None
    if not missing:
        return tuple(candidates[best])
    if present[best] == 0:
        raise ConfigError(f"data.data_path: {data_path!r} holds no CIFAR-10 batches.\n{_MEND}")
    names = ", ".join(file.name for file in missing)
    raise ConfigError(f"data.data_path: {missing[0].parent} is incomplete, it lacks {names}.\n{_MEND}")


def decode(part: str, files: tuple[Path, ...]) -> np.ndarray:
    """Records of the `train` or `test` part. Raises ConfigError naming a file that cannot be decoded."""
    chosen = files[:-1] if part == "train" else files[-1:]
    batches = [_read_bin(file) if file.suffix == ".bin" else _read_pickle(file) for file in chosen]
    images_NP = np.concatenate([images for images, _ in batches])
    return records(images_NP.reshape(-1, *IMAGE_SHAPE), np.concatenate([labels for _, labels in batches]))


def _read_bin(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one label byte and 3072 image bytes, red plane first."""
    data = np.frombuffer(_read_bytes(file), np.uint8)
    if len(data) == 0 or len(data) % (1 + IMAGE_BYTES):
        raise _corrupt(file, f"{len(data):,} bytes are not a whole number of {1 + IMAGE_BYTES:,}-byte images")
    rows = data.reshape(-1, 1 + IMAGE_BYTES)
    return rows[:, 1:], _checked_labels(file, rows[:, 0])


def _read_pickle(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """A dictionary with `data`, (N, 3072) uint8, red plane first, and `labels`, N integers."""
    with _open(file) as stream:
        try:
            batch = _ArrayUnpickler(stream, encoding="bytes").load()
        except Exception as error:  # noqa: BLE001 (a damaged pickle can raise any exception)
            raise _corrupt(file, " ".join(str(error).split()) or type(error).__name__) from None
    if not isinstance(batch, dict):
        raise _corrupt(file, f"it holds a {type(batch).__name__}, not a dictionary")
    # Python 2 wrote the keys as bytes.
    batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    images_NP, labels = batch.get("data"), batch.get("labels")
    if not isinstance(images_NP, np.ndarray) or images_NP.dtype != np.uint8 or images_NP.size == 0:
        raise _corrupt(file, "its `data` is not a uint8 array of images")
    if images_NP.ndim != 2 or images_NP.shape[1] != IMAGE_BYTES:
        raise _corrupt(file, f"its `data` has the shape {images_NP.shape}, not (images, {IMAGE_BYTES})")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _corrupt(file, "its `labels` is not a list of integers")
    if len(labels) != len(images_NP):
        raise _corrupt(file, f"it holds {len(images_NP)} images but {len(labels)} labels")
    return images_NP, _checked_labels(file, np.array(labels))


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain containers and numpy arrays; refuses every other class or function.

    A pickle runs whatever callable it names, so a data file from elsewhere would be a program.
    """

    # Asked of numpy: the module that holds it moved in numpy 2, files keep the old name.
    _reconstruct: Any = np.empty(0).__reduce__()[0]
    _allowed: dict[tuple[str, str], Any] = {  # noqa: RUF012 (never changed)
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no image file needs") from None


def _open(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        raise ConfigError(f"data.data_path: {file} cannot be read: {error.strerror}.") from None


def _read_bytes(file: Path) -> bytes:
    with _open(file) as stream:
        return stream.read()


def _checked_labels(file: Path, labels_N: np.ndarray) -> np.ndarray:
    if labels_N.min() < 0 or labels_N.max() >= NUM_CLASSES:
        raise _corrupt(file, f"it holds labels outside 0 to {NUM_CLASSES - 1}")
    return labels_N


def _corrupt(file: Path, problem: str) -> ConfigError:
    return ConfigError(f"data.data_path: {file} is damaged: {problem}.\n{_MEND}")
