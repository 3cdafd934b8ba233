"""What images that are decoded when they are drawn have in common, wherever they are decoded.

Shape letters: M images of a part of a data set, N images of a split, B a batch, C channels, H x W
stored size in pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager

import numpy as np

from hjepa.data.decode import Skipped
from hjepa.data.items import Items
from hjepa.schema import ConfigError


class OnDemand(ABC):
    """The images of `items`; numbers are those of a decoded store.

    One that cannot be decoded is counted in `skipped` and replaced, since no pass over all of them comes
    before the first draw.
    """

    def __init__(self, items: Items, num_workers: int, skipped: Skipped):
        self.items = items
        self.num_workers = num_workers
        self.skipped = skipped

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(M, C, H, W)."""
        return len(self.items), 3, self.items.side, self.items.side

    @abstractmethod
    def read(self, indices_B: np.ndarray, allowed_N: np.ndarray) -> np.ndarray:
        """Images (B, C, H, W), uint8. One that cannot be decoded is counted, and replaced by the next of
        its class among `allowed_N`, ascending. ConfigError where they become too many."""

    @abstractmethod
    def ahead(self, batches: Iterable[np.ndarray]) -> AbstractContextManager[None]:
        """Within, these batches of indices are decoded ahead for `read`, which must ask for them in this
        order."""

    def alike(self, index: int, allowed_N: np.ndarray) -> list[int]:
        """The others of an image's class among `allowed_N`, the next one first."""
        labels_M = self.items.labels_M
        alike = allowed_N[labels_M[allowed_N] == labels_M[index]]
        return [*alike[alike > index].tolist(), *alike[alike < index].tolist()]

    def none_alike(self, index: int) -> ConfigError:
        """What to raise where all of them are bad."""
        return ConfigError(
            f"data.data_path: of the class of {self.items.name(index)} no image can be decoded."
        )
