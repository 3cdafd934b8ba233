"""From a data config to memory-mapped splits: training images, evaluation images and, apart, the test set.

Shape letters: N images of a split, C channels.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from hjepa.data import cifar, digits, imagefolder, stl10
from hjepa.data.cache import NO_LABEL, default_cache_dir, mapped
from hjepa.data.config import DataConfig
from hjepa.data.source import Source, unreadable
from hjepa.data.split import Split, stratified_split

# A new data set is a Source, a name here and one in DataConfig.
_FINDERS: dict[str, Callable[[DataConfig], Source]] = {
    "digits": digits.find,
    "cifar10": cifar.find,
    "cifar100": cifar.find,
    "stl10": stl10.find,
    "imagefolder": imagefolder.find,
    "imagenet": imagefolder.find,
    "imagenet100": imagefolder.find,
}
_CACHE_VERSION = 2
_CHUNK_IMAGES = 1024
# All of CIFAR's training pixels, and enough of a larger set's: 2,700 images of 256 x 256.
_STATISTICS_BYTES = 1 << 29


@dataclass(frozen=True, eq=False)
class Data:
    """The training set, split into images to learn from and images to evaluate on; for the test set, see
    `load_test`."""

    train: Split
    """Images to learn from; some may have no class."""
    bank: Split
    """Those of them that have one, to classify by; `train` itself where all have."""
    val: Split
    mean_C: np.ndarray
    """float32, of `train`'s pixels scaled to [0, 1]; of evenly spaced images where there are many."""
    std_C: np.ndarray
    """float32, of the same."""
    num_classes: int


def check_data(config: DataConfig) -> None:
    """Raises ConfigError unless the files of the data set are where `config` says. Writes nothing."""
    _FINDERS[config.dataset](config)


def load_data(config: DataConfig) -> Data:
    """Training and evaluation images, at their stored resolution.

    The first call decodes into the cache, later processes map what is there, and later calls of one
    process return the same object. Raises ConfigError where files are missing or damaged.
    """
    source = _FINDERS[config.dataset](config)
    return _load_data(source, _cache_file(config, source, "train"), config.val_fraction, config.split_seed)


def load_test(config: DataConfig) -> Split:
    """The test set, for numbers that nothing was chosen by. Raises as `load_data`."""
    source = _FINDERS[config.dataset](config)
    return _load_test(source, _cache_file(config, source, "test"))


def _cache_file(config: DataConfig, source: Source, part: str) -> Path:
    """The cache file that stands for a part of `source` as its files are now."""
    try:
        states = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in source.files(part)]
    except OSError as error:
        raise unreadable(Path(error.filename), error) from None
    digest = hashlib.sha256(repr((_CACHE_VERSION, source, states)).encode()).hexdigest()[:16]
    folder = Path(config.cache_dir).expanduser() if config.cache_dir else default_cache_dir()
    return folder.resolve() / f"{config.dataset}-{part}-{digest}.npy"


@lru_cache(maxsize=8)
def _load_data(source: Source, cache: Path, val_fraction: float, split_seed: int) -> Data:
    stored_M = mapped(cache, lambda: source.decode("train"))
    labels_M = np.array(stored_M["label"])
    labelled = np.flatnonzero(labels_M != NO_LABEL)
    kept, held = stratified_split(labels_M[labelled], val_fraction, split_seed)
    kept, held = labelled[kept], labelled[held]
    bank, val = _split(stored_M, kept), _split(stored_M, held)
    is_held = np.zeros(len(labels_M), dtype=bool)
    is_held[held] = True
    train = bank if len(labelled) == len(labels_M) else _split(stored_M, np.flatnonzero(~is_held))
    mean_C, std_C = _pixel_statistics(train)
    return Data(train, bank, val, mean_C, std_C, source.num_classes)


@lru_cache(maxsize=8)
def _load_test(source: Source, cache: Path) -> Split:
    stored_M = mapped(cache, lambda: source.decode("test"))
    return _split(stored_M, np.arange(len(stored_M)))


def _split(stored_M: np.ndarray, indices_N: np.ndarray) -> Split:
    return Split(stored_M["image"], indices_N, stored_M["label"][indices_N].astype(np.int64))


def _pixel_statistics(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel of pixels in [0, 1], (3,) float32 each."""
    image_bytes = math.prod(split.stored_MCHW.shape[1:])
    sampled = np.arange(0, len(split), math.ceil(len(split) * image_bytes / _STATISTICS_BYTES))
    counts_CV = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(sampled), _CHUNK_IMAGES):
        images_BCHW = split.images(sampled[start : start + _CHUNK_IMAGES])
        for channel, counts_V in enumerate(counts_CV):
            counts_V += np.bincount(images_BCHW[:, channel].ravel(), minlength=256)
    values_V = np.arange(256) / 255
    share_CV = counts_CV / counts_CV.sum(axis=1, keepdims=True)
    mean_C = share_CV @ values_V
    variance_C = (share_CV * (values_V - mean_C[:, None]) ** 2).sum(axis=1)
    # One grey level at least: a constant channel would divide by zero.
    return mean_C.astype(np.float32), np.sqrt(variance_C).clip(min=1 / 255).astype(np.float32)
