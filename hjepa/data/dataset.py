"""From a data config to memory-mapped splits: training images, evaluation images and, apart, the test set.

Shape letters: N images of a split, C channels.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from hjepa.data import cifar10, digits
from hjepa.data.augmentation import AugmentationConfig
from hjepa.data.cache import default_cache_dir, mapped
from hjepa.data.split import Split, stratified_split
from hjepa.schema import NO_EFFECT, Config

# A new data set is a module with NUM_CLASSES, find_files and decode, a name here and one in DataConfig.
_FORMATS = {"digits": digits, "cifar10": cifar10}
_CACHE_VERSION = 1
_CHUNK_IMAGES = 1024


class DataConfig(Config):
    """Which images are learnt from, and how they reach the model."""

    dataset: Literal["digits", "cifar10"] = "digits"
    """Data set; digits is embedded, 1,797 grey images of 8x8 pixels."""
    data_path: str | None = None
    """Folder that holds the data set's public files; null for digits."""
    image_size: int = Field(default=16, ge=4)
    """Side of the square image that the model sees, in pixels."""
    batch_size: int = Field(default=64, ge=2)
    """Images per micro-batch of the optimizer."""
    val_fraction: float = Field(default=0.25, gt=0, le=0.5)
    """Share of the training images, of each class, held out for evaluation."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of that split. Apart from the run's seed, so that runs of different seeds are compared on the
    same images."""
    pin_memory: bool = Field(default=True, json_schema_extra=NO_EFFECT)
    """Page-locked host memory for copies to CUDA. Speed only."""
    cache_dir: str | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """Folder for decoded images; null is $XDG_CACHE_HOME/hjepa or ~/.cache/hjepa. Place only."""
    augmentation: AugmentationConfig = AugmentationConfig()

    def inert(self) -> dict[str, str]:
        return {"data_path": "digits is embedded"} if self.dataset == "digits" else {}


@dataclass(frozen=True, eq=False)
class Data:
    """The training set, split in two. The test set is not in here: see `load_test`."""

    train: Split
    val: Split
    mean_C: np.ndarray
    """float32, of `train`'s pixels scaled to [0, 1]."""
    std_C: np.ndarray
    """float32, of the same."""
    num_classes: int


def check_data(config: DataConfig) -> None:
    """Raises ConfigError unless the files of the data set are where `config` says. Writes nothing."""
    _FORMATS[config.dataset].find_files(config.data_path)


def load_data(config: DataConfig) -> Data:
    """Training and evaluation images, at their stored resolution.

    The first call decodes into the cache, later processes map what is there, and later calls of one
    process return the same object. Raises ConfigError where files are missing or damaged.
    """
    return _load_data(config.dataset, *_locate(config, "train"), config.val_fraction, config.split_seed)


def load_test(config: DataConfig) -> Split:
    """The test set, for numbers that nothing was chosen by. Raises as `load_data`."""
    return _load_test(config.dataset, *_locate(config, "test"))


def _locate(config: DataConfig, part: str) -> tuple[tuple[Path, ...], Path]:
    """The source files, and the cache file that stands for them as they are now."""
    files = tuple(file.resolve() for file in _FORMATS[config.dataset].find_files(config.data_path))
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr((_CACHE_VERSION, states)).encode()).hexdigest()[:16]
    folder = Path(config.cache_dir).expanduser() if config.cache_dir else default_cache_dir()
    return files, folder.resolve() / f"{config.dataset}-{part}-{digest}.npy"


@lru_cache(maxsize=8)
def _load_data(
    dataset: str, files: tuple[Path, ...], cache: Path, val_fraction: float, split_seed: int
) -> Data:
    stored_M = mapped(cache, lambda: _FORMATS[dataset].decode("train", files))
    train, val = (
        _split(stored_M, indices_N)
        for indices_N in stratified_split(stored_M["label"], val_fraction, split_seed)
    )
    mean_C, std_C = _pixel_statistics(train)
    return Data(train, val, mean_C, std_C, _FORMATS[dataset].NUM_CLASSES)


@lru_cache(maxsize=8)
def _load_test(dataset: str, files: tuple[Path, ...], cache: Path) -> Split:
    stored_M = mapped(cache, lambda: _FORMATS[dataset].decode("test", files))
    return _split(stored_M, np.arange(len(stored_M)))


def _split(stored_M: np.ndarray, indices_N: np.ndarray) -> Split:
    return Split(stored_M["image"], indices_N, stored_M["label"][indices_N].astype(np.int64))


def _pixel_statistics(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel of pixels in [0, 1], (3,) float32 each."""
    counts_CV = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(split), _CHUNK_IMAGES):
        images_BCHW = split.images(np.arange(start, min(start + _CHUNK_IMAGES, len(split))))
        for channel, counts_V in enumerate(counts_CV):
            counts_V += np.bincount(images_BCHW[:, channel].ravel(), minlength=256)
    values_V = np.arange(256) / 255
    share_CV = counts_CV / counts_CV.sum(axis=1, keepdims=True)
    mean_C = share_CV @ values_V
    variance_C = (share_CV * (values_V - mean_C[:, None]) ** 2).sum(axis=1)
    # One grey level at least: a constant channel would divide by zero.
    return mean_C.astype(np.float32), np.sqrt(variance_C).clip(min=1 / 255).astype(np.float32)
