"""What an epoch draws of several data sets.

Shape letters: N training images of all sets, one after another, K draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Share:
    """A data set's part of the training images and of the draws."""

    name: str
    first: int
    """Position of its first training image."""
    images: int
    share: float
    """Of the draws, 0 to 1."""


@dataclass(frozen=True)
class Mixture:
    """Data sets and their shares."""

    shares: tuple[Share, ...]
    every_image_once: bool
    """Whether the shares are those of the images, so that an epoch is one pass over all of them."""

    def order(self, count: int) -> np.ndarray:
        """Positions of an epoch's `count` draws, (K,) int64, from torch's global CPU generator.

        Each set's draws are its share to within one, the same in every epoch. None of its images comes a
        second time before all of them have come once.
        """
        if self.every_image_once:
            return torch.randperm(sum(share.images for share in self.shares)).numpy()[:count]
        quotas = apportioned([share.share for share in self.shares], count)
        drawn_K = np.concatenate(
            [
                share.first + _rounds(share.images, quota)
                for share, quota in zip(self.shares, quotas, strict=True)
            ]
        )
        return drawn_K[torch.randperm(count).numpy()]

    def drawn(self, order_K: np.ndarray) -> dict[str, int]:
        """How many of the draws are of each set."""
        return {
            share.name: int(((order_K >= share.first) & (order_K < share.first + share.images)).sum())
            for share in self.shares
        }


def apportioned(shares: Sequence[float], count: int) -> list[int]:
    """`count` seats by shares that sum to 1: whole quotas first, then the largest remainders (Hamilton)."""
    exact = np.asarray(shares) * count
    seats = np.floor(exact).astype(int)
    by_remainder = np.argsort(seats - exact, kind="stable")
    seats[by_remainder[: count - seats.sum()]] += 1
    return seats.tolist()


def _rounds(images: int, count: int) -> np.ndarray:
    """`count` of `images`: as many whole permutations as go into it, and the beginning of another."""
    rounds = [torch.randperm(images).numpy() for _ in range(-(-count // images))]
    return np.concatenate([np.empty(0, np.int64), *rounds])[:count]
