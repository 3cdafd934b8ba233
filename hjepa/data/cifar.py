"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their public files, Python pickles or the binary version.

https://www.cs.toronto.edu/~kriz/cifar.html

Shape letters: N images of a file, P bytes of an image.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.data.cache import records
from hjepa.data.config import DataConfig
from hjepa.data.decode import Skipped
from hjepa.data.source import Source, require_files, require_folder, unreadable
from hjepa.schema import ConfigError

IMAGE_SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class Edition:
    """Where CIFAR-10 and CIFAR-100 differ."""

    title: str
    num_classes: int
    pickle_folder: str
    bin_folder: str
    archive: str
    train: tuple[str, ...]
    """Files of the training images, without `.bin`."""
    test: tuple[str, ...]
    label_key: str
    """Of a pickle; what else it holds is not read."""
    label_bytes: int
    """Before each image of a binary file; the last of them is the class."""

    @property
    def mend(self) -> str:
        return (
            f"Unpack https://www.cs.toronto.edu/~kriz/{self.archive}-python.tar.gz (or "
            f"{self.archive}-binary.tar.gz) and set data.data_path to the folder that holds "
            f"{self.pickle_folder} (or {self.bin_folder})."
        )


CIFAR10 = Edition(
    title="CIFAR-10",
    num_classes=10,
    pickle_folder="cifar-10-batches-py",
    bin_folder="cifar-10-batches-bin",
    archive="cifar-10",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test=("test_batch",),
    label_key="labels",
    label_bytes=1,
)
CIFAR100 = Edition(
    title="CIFAR-100",
    num_classes=100,
    pickle_folder="cifar-100-python",
    bin_folder="cifar-100-binary",
    archive="cifar-100",
    train=("train",),
    test=("test",),
    label_key="fine_labels",
    label_bytes=2,
)
_EDITIONS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def find(config: DataConfig) -> "Cifar":
    """The data set in the folder that `data.data_path` names, or in its public subfolder.

    Raises ConfigError where a file is missing.
    """
    edition = _EDITIONS[config.dataset]
    root = require_folder(config.data_path, config.dataset, edition.mend)
    names = edition.train + edition.test
    candidates = [
        [folder / f"{name}{suffix}" for name in names]
        for subfolder, suffix in ((edition.pickle_folder, ""), (edition.bin_folder, ".bin"))
        for folder in (root, root / subfolder)
    ]
    found = require_files(candidates, config.data_path, f"{edition.title} batches", edition.mend)
    return Cifar(edition, found[0].parent.resolve(), found[0].suffix)


@dataclass(frozen=True)
class Cifar(Source):
    edition: Edition
    folder: Path
    suffix: str
    """`.bin`, or nothing for the pickles."""

    @property
    def num_classes(self) -> int:
        return self.edition.num_classes

    def files(self, part: str) -> tuple[Path, ...]:
        names = self.edition.train if part == "train" else self.edition.test
        return tuple(self.folder / f"{name}{self.suffix}" for name in names)

    def decode(self, part: str, skipped: Skipped) -> Iterator[np.ndarray]:
        for file in self.files(part):
            images_NP, labels_N = self._read_bin(file) if self.suffix else self._read_pickle(file)
            if labels_N.min() < 0 or labels_N.max() >= self.num_classes:
                raise self._damaged(file, f"it holds labels outside 0 to {self.num_classes - 1}")
            yield records(images_NP.reshape(-1, *IMAGE_SHAPE), labels_N)

    def _read_bin(self, file: Path) -> tuple[np.ndarray, np.ndarray]:
        """Rows of one or two label bytes and 3072 image bytes, red plane first."""
        try:
            data = np.frombuffer(file.read_bytes(), np.uint8)
        except OSError as error:
            raise unreadable(file, error) from None
        row_bytes = self.edition.label_bytes + IMAGE_BYTES
        if len(data) == 0 or len(data) % row_bytes:
            problem = f"{len(data):,} bytes are not a whole number of {row_bytes:,}-byte images"
            raise self._damaged(file, problem)
        rows = data.reshape(-1, row_bytes)
        return rows[:, -IMAGE_BYTES:], rows[:, -IMAGE_BYTES - 1]

    def _read_pickle(self, file: Path) -> tuple[np.ndarray, np.ndarray]:
        """A dictionary with `data`, (N, 3072) uint8, red plane first, and a list of N labels."""
        batch, key = self._unpickle(file), self.edition.label_key
        images_NP, labels = batch.get("data"), batch.get(key)
        if not isinstance(images_NP, np.ndarray) or images_NP.dtype != np.uint8 or images_NP.size == 0:
            raise self._damaged(file, "its `data` is not a uint8 array of images")
        if images_NP.ndim != 2 or images_NP.shape[1] != IMAGE_BYTES:
            problem = f"its `data` has the shape {images_NP.shape}, not (images, {IMAGE_BYTES})"
            raise self._damaged(file, problem)
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise self._damaged(file, f"its `{key}` is not a list of integers")
        if len(labels) != len(images_NP):
            raise self._damaged(file, f"it holds {len(images_NP)} images but {len(labels)} labels")
        return images_NP, np.array(labels)

    def _unpickle(self, file: Path) -> dict[str, Any]:
        try:
            stream = file.open("rb")
        except OSError as error:
            raise unreadable(file, error) from None
        with stream:
            try:
                batch = _ArrayUnpickler(stream, encoding="bytes").load()
            except Exception as error:  # noqa: BLE001 (a damaged pickle can raise any exception)
                problem = " ".join(str(error).split()) or type(error).__name__
                raise self._damaged(file, problem) from None
        if not isinstance(batch, dict):
            raise self._damaged(file, f"it holds a {type(batch).__name__}, not a dictionary")
        # Python 2 wrote the keys as bytes.
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}

    def _damaged(self, file: Path, problem: str) -> ConfigError:
        return ConfigError(f"data.data_path: {file} is damaged: {problem}.\n{self.edition.mend}")


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
