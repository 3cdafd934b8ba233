"""STL-10 (Coates et al., 2011) from its public binary files: 5,000 labelled and 100,000 unlabelled images.

https://cs.stanford.edu/~acoates/stl10/
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hjepa.data.cache import NO_LABEL, records
from hjepa.data.config import DataConfig
from hjepa.data.decode import Skipped
from hjepa.data.items import Items, Job, Joined, Outcome
from hjepa.data.source import Streamable, require_files, require_folder, unreadable
from hjepa.schema import ConfigError

NUM_CLASSES = 10
SIDE = 96
IMAGE_BYTES = 3 * SIDE * SIDE
_FOLDER = "stl10_binary"
_UNLABELED = "unlabeled_X.bin"
_CHUNK_IMAGES = 1000
_MEND = (
    "Unpack http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz and set data.data_path to the folder "
    f"that holds {_FOLDER}."
)


def find(config: DataConfig) -> "Stl10":
    """The data set in the folder that `data.data_path` names, or in its subfolder stl10_binary.

    Raises ConfigError where a file is missing; the unlabelled one counts where it is learnt from.
    """
    root = require_folder(config.data_path, config.dataset, _MEND)
    names = [f"{part}_{kind}.bin" for part in ("train", "test") for kind in "Xy"]
    names += [_UNLABELED] if config.unlabeled else []
    candidates = [[folder / name for name in names] for folder in (root, root / _FOLDER)]
    found = require_files(candidates, config.data_path, "STL-10 .bin files", _MEND)
    return Stl10(found[0].parent.resolve(), config.unlabeled)


@dataclass(frozen=True)
class Stl10(Streamable):
    folder: Path
    unlabeled: bool

    @property
    def num_classes(self) -> int:
        return NUM_CLASSES

    def files(self, part: str) -> tuple[Path, ...]:
        labelled = (self.folder / f"{part}_X.bin", self.folder / f"{part}_y.bin")
        return (*labelled, self.folder / _UNLABELED) if part == "train" and self.unlabeled else labelled

    def split_files(self) -> tuple[Path, ...]:
        return self.files("train")[:2]  # none of the unlabelled ones

    def decode(self, part: str, skipped: Skipped) -> Iterator[np.ndarray]:
        """The labelled images in file order, then the unlabelled ones."""
        for file, labels_N in self._labelled(part):
            yield from _chunks(file, labels_N)

    def items(self, part: str) -> Items:
        found = [_Images(str(file), labels_N) for file, labels_N in self._labelled(part)]
        return Joined(found, [0] * len(found))

    def _labelled(self, part: str) -> Iterator[tuple[Path, np.ndarray]]:
        """Files of images, and the class of each."""
        images_file, labels_file, *unlabeled = self.files(part)
        labels_N = _read_labels(labels_file)
        count = _count_images(images_file)
        if count != len(labels_N):
            raise _damaged(
                images_file, f"it holds {count} images but {labels_file.name} {len(labels_N)} labels"
            )
        yield images_file, labels_N
        for file in unlabeled:
            yield file, np.full(_count_images(file), NO_LABEL)


class _Images(Items):
    """The images of a file, which need no decoding but an upright copy."""

    side = SIDE

    def __init__(self, file: str, labels_M: np.ndarray):
        self.file, self.labels_M = file, labels_M

    def job(self, indices_B: np.ndarray) -> Job:
        return _ImagesJob(self.file, indices_B)

    def name(self, index: int) -> str:
        return f"{self.file}: image {index}"


@dataclass(frozen=True)
class _ImagesJob(Job):
    file: str
    indices_B: np.ndarray

    def run(self) -> Outcome:
        images_MCWH = np.memmap(self.file, np.uint8, "r").reshape(-1, 3, SIDE, SIDE)
        return Outcome(np.ascontiguousarray(images_MCWH[self.indices_B].swapaxes(2, 3)), {})


def _read_labels(file: Path) -> np.ndarray:
    """Classes from 0; the file counts them from 1."""
    try:
        labels_N = np.frombuffer(file.read_bytes(), np.uint8).astype(np.int64) - 1
    except OSError as error:
        raise unreadable(file, error) from None
    if len(labels_N) == 0 or labels_N.min() < 0 or labels_N.max() >= NUM_CLASSES:
        raise _damaged(file, f"it is empty or holds labels outside 1 to {NUM_CLASSES}")
    return labels_N


def _count_images(file: Path) -> int:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise unreadable(file, error) from None
    if size == 0 or size % IMAGE_BYTES:
        raise _damaged(file, f"{size:,} bytes are not a whole number of {IMAGE_BYTES:,}-byte images")
    return size // IMAGE_BYTES


def _chunks(file: Path, labels_N: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(labels_N), _CHUNK_IMAGES):
        labels_B = labels_N[start : start + _CHUNK_IMAGES]
        try:
            found = np.fromfile(file, np.uint8, len(labels_B) * IMAGE_BYTES, offset=start * IMAGE_BYTES)
        except OSError as error:
            raise unreadable(file, error) from None
        # Written by Matlab, so each plane goes down its columns.
        images_BCWH = found.reshape(len(labels_B), 3, SIDE, SIDE)
        yield records(images_BCWH.swapaxes(2, 3), labels_B)


def _damaged(file: Path, problem: str) -> ConfigError:
    return ConfigError(f"data.data_path: {file} is damaged: {problem}.\n{_MEND}")
