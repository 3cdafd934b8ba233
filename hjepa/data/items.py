"""Images that can be asked for in any order, and be decoded in any process.

Shape letters: M images of a part of a data set, B some of them, C channels, H x W stored size in pixels.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from hjepa.data.decode import Encoded, square_or_problem


class Outcome(NamedTuple):
    """What a job gives."""

    images_BCHW: np.ndarray
    """uint8; black where there is a problem."""
    problems: dict[int, str]
    """Why the image at a position could not be decoded."""


class Job(ABC):
    """Some images to decode: small, and it can be sent to another process."""

    @abstractmethod
    def run(self) -> Outcome: ...


class Items(ABC):
    """A part of a data set, image by image."""

    side: int
    """Height and width of each, pixels."""
    labels_M: np.ndarray
    """int64, -1 where an image has no class."""

    def __len__(self) -> int:
        return len(self.labels_M)

    @abstractmethod
    def job(self, indices_B: np.ndarray) -> Job:
        """The decoding of some of them."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Where an image lies, for messages."""

    def called(self) -> Iterable[str]:
        """What the images are called, as far as they have names, wherever their folder lies."""
        return ()


def outcome(images: Iterable[Encoded], size: int) -> Outcome:
    """Squares of `size` pixels from encoded images."""
    squares, problems = [], {}
    for position, image in enumerate(images):
        found = square_or_problem(image, size)
        if isinstance(found, str):
            problems[position] = found
            found = np.zeros((3, size, size), np.uint8)
        squares.append(found)
    return Outcome(squares[0][None] if len(squares) == 1 else np.stack(squares), problems)


class Files(Items):
    """Image files."""

    def __init__(self, files: list[str], labels_M: np.ndarray, side: int):
        self.files, self.labels_M, self.side = files, labels_M, side

    def job(self, indices_B: np.ndarray) -> Job:
        return _FilesJob([self.files[index] for index in indices_B], self.side)

    def name(self, index: int) -> str:
        return self.files[index]

    def called(self) -> Iterable[str]:
        return ("/".join(file.rsplit(os.sep, 2)[-2:]) for file in self.files)


@dataclass(frozen=True)
class _FilesJob(Job):
    files: list[str]
    size: int

    def run(self) -> Outcome:
        return outcome((Encoded(file, file) for file in self.files), self.size)


class Stored(Items):
    """Images that are decoded already: `stored_M`, the records of a `.npy` file."""

    def __init__(self, file: str, stored_M: np.ndarray):
        self.file = file
        self.side = stored_M["image"].shape[-1]
        self.labels_M = stored_M["label"].astype(np.int64)

    def job(self, indices_B: np.ndarray) -> Job:
        return _StoredJob(self.file, indices_B)

    def name(self, index: int) -> str:
        return f"{self.file}: image {index}"


@dataclass(frozen=True)
class _StoredJob(Job):
    file: str
    indices_B: np.ndarray

    def run(self) -> Outcome:
        state = os.stat(self.file)
        stored_M = _opened(self.file, state.st_ino, state.st_mtime_ns)
        return Outcome(stored_M["image"][self.indices_B], {})


@lru_cache(maxsize=16)
def _opened(file: str, inode: int, changed_ns: int) -> np.ndarray:
    """Once in a process. What replaced it is another file: of the old one, pages may be gone."""
    return np.load(file, mmap_mode="r")


class Joined(Items):
    """Several one after another, the smaller images resized to `side`, None: that of the largest.

    `first_classes` gives the label that class 0 of each gets.
    """

    def __init__(self, parts: Sequence[Items], first_classes: Sequence[int], side: int | None = None):
        self.parts = parts
        self.side = side or max(part.side for part in parts)
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.labels_M = np.concatenate(
            [
                np.where(part.labels_M < 0, part.labels_M, part.labels_M + first)
                for part, first in zip(parts, first_classes, strict=True)
            ]
        )

    def job(self, indices_B: np.ndarray) -> Job:
        part_B = self._part_of(indices_B)
        chosen = [np.flatnonzero(part_B == part) for part in range(len(self.parts))]
        return _JoinedJob(
            [
                (positions, self.parts[part].job(indices_B[positions] - self.starts[part]))
                for part, positions in enumerate(chosen)
                if len(positions)
            ],
            self.side,
        )

    def name(self, index: int) -> str:
        part = int(self._part_of(np.array(index)))
        return self.parts[part].name(index - int(self.starts[part]))

    def _part_of(self, indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, indices, side="right") - 1


@dataclass(frozen=True)
class _JoinedJob(Job):
    jobs: list[tuple[np.ndarray, Job]]
    """Of each set with images among them, their positions and their decoding."""
    side: int

    def run(self) -> Outcome:
        count = sum(len(positions) for positions, _ in self.jobs)
        images_BCHW = np.empty((count, 3, self.side, self.side), np.uint8)
        problems: dict[int, str] = {}
        for positions, job in self.jobs:
            found = job.run()
            images_BCHW[positions] = enlarged(found.images_BCHW, self.side)
            problems |= {int(positions[position]): why for position, why in found.problems.items()}
        return Outcome(images_BCHW, problems)


def enlarged(images_BCHW: np.ndarray, side: int) -> np.ndarray:
    """uint8 images, bilinearly resized to (B, C, side, side); the same array where they have that size."""
    if images_BCHW.shape[-1] == side:
        return images_BCHW
    # In float: torch's path for bytes rounds otherwise on processors without AVX2.
    found = F.interpolate(torch.from_numpy(images_BCHW).float(), side, mode="bilinear", align_corners=False)
    return found.round_().to(torch.uint8).numpy()
