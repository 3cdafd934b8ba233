"""Splits: which images of a stored array belong to training, evaluation or test.

Shape letters: M stored images, N images of a split, B a batch, C channels, H x W pixels.
"""

import hashlib
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np

from hjepa.data.ondemand import OnDemand

_NAMES_AT_ONCE = 4096  # of a million, each by itself takes a second to digest


@dataclass(frozen=True, eq=False)
class Split:
    """Some of the images of a stored, usually memory-mapped, array or of those decoded when drawn; they
    are never copied whole."""

    stored_MCHW: np.ndarray | OnDemand
    """uint8."""
    indices_N: np.ndarray
    """int64, ascending: which of the stored images belong to this split."""
    labels_N: np.ndarray
    """int64, class of each image of this split; -1 where it has none."""

    def __len__(self) -> int:
        return len(self.indices_N)

    def images(self, indices_B: np.ndarray) -> np.ndarray:
        """The images at positions `indices_B` (0 to len - 1) of this split, (B, C, H, W) uint8, a copy."""
        if isinstance(self.stored_MCHW, OnDemand):
            return self.stored_MCHW.read(self.indices_N[indices_B], self.indices_N)
        return self.stored_MCHW[self.indices_N[indices_B]]

    def ahead(self, batches: Iterable[np.ndarray]) -> AbstractContextManager[None]:
        """Within, `images` will be asked for these batches in this order: where images are decoded when
        drawn, threads or worker processes do so ahead. What is asked for otherwise comes too, but slowly."""
        if isinstance(self.stored_MCHW, OnDemand):
            return self.stored_MCHW.ahead(self.indices_N[batch] for batch in batches)
        return nullcontext()


def stratified_split(labels_N: np.ndarray, held_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ascending positions kept and held out, with `held_fraction` of every class held out.

    A class of two or more has at least one image on either side; a class of one is kept.
    """
    order_N = np.random.default_rng(seed).permutation(len(labels_N))
    held = np.zeros(len(labels_N), dtype=bool)
    by_class_N = order_N[np.argsort(labels_N[order_N], kind="stable")]
    ends = np.flatnonzero(np.diff(labels_N[by_class_N])) + 1
    for members in np.split(by_class_N, ends):
        count = min(max(round(held_fraction * len(members)), 1), len(members) - 1)
        held[members[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


@dataclass(frozen=True)
class Held:
    """What is held out of a data set for evaluation, to be known again."""

    images: int
    """Images that have a class."""
    held: int
    """Of them, those held out."""
    digest: str
    """Of which ones, their classes and what all are called, wherever and however they are kept."""

    @classmethod
    def of(cls, labels_N: np.ndarray, held_K: np.ndarray, called: Iterable[str]) -> "Held":
        """Positions `held_K` held out of images of the classes `labels_N`."""
        digest = hashlib.sha256()
        for values in (labels_N, held_K):
            digest.update(values.astype("<i8").tobytes())
        names = iter(called)
        while some := list(islice(names, _NAMES_AT_ONCE)):
            digest.update("".join(f"{name}\0" for name in some).encode(errors="surrogateescape"))
        return cls(len(labels_N), len(held_K), digest.hexdigest()[:16])
