"""Data sets: their on-disk formats, splits, decoded cache and device-side augmentation."""

from hjepa.data.augmentation import Augmentation, AugmentationConfig
from hjepa.data.config import DataConfig
from hjepa.data.dataset import Data, check_apart, check_data, load_data, load_test
from hjepa.data.multicrop import LocalCrops, Multicrop, MulticropConfig
from hjepa.data.split import Split

__all__ = [
    "DataConfig",
    "check_apart",
    "check_data",
    "load_data",
    "load_test",
    "Data",
    "Split",
    "AugmentationConfig",
    "Augmentation",
    "Multicrop",
    "MulticropConfig",
    "LocalCrops",
]
