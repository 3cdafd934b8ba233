"""Handwritten digits, 8x8, embedded in scikit-learn: 1,797 images that need no download."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hjepa.data.cache import record_type, records
from hjepa.data.config import DataConfig
from hjepa.data.decode import Skipped
from hjepa.data.source import Source
from hjepa.data.split import stratified_split

# scikit-learn ships no official test split. Changing either of these makes old results incomparable.
TEST_FRACTION = 0.2
TEST_SEED = 1797
_IMAGES = {"train": 1438, "test": 359}


def find(config: DataConfig) -> "Digits":
    """The images that come with scikit-learn."""
    return Digits()


@dataclass(frozen=True)
class Digits(Source):
    @property
    def num_classes(self) -> int:
        return 10

    def files(self, part: str) -> tuple[Path, ...]:
        return ()

    def decoded_bytes(self, part: str) -> int:
        return _IMAGES[part] * record_type((3, 8, 8)).itemsize

    def decode(self, part: str, skipped: Skipped) -> Iterator[np.ndarray]:
        """Grey replicated to three channels, 0..16 scaled to 0..255."""
        from sklearn.datasets import load_digits  # a second of imports, needed once per cache

        images_MP, labels_M = map(np.asarray, load_digits(return_X_y=True))
        train, test = stratified_split(labels_M, TEST_FRACTION, TEST_SEED)
        chosen = train if part == "train" else test
        grey_N1HW = np.rint(images_MP[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        yield records(grey_N1HW.repeat(3, axis=1), labels_M[chosen])
