"""The `data` section of a run's config."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from hjepa.data.augmentation import AugmentationConfig
from hjepa.schema import NO_EFFECT, Config

Dataset = Literal["digits", "cifar10", "cifar100", "stl10", "imagefolder", "imagenet", "imagenet100"]
_FOLDERS = ("imagefolder", "imagenet", "imagenet100")
_OF_FOLDERS = ("class_list", "stored_size", "cache_budget_gb", "num_workers", "max_bad")


class DataConfig(Config):
    """Which images are learnt from, and how they reach the model."""

    dataset: Dataset = "digits"
    """Data set; digits is embedded, 1,797 grey images of 8x8 pixels. imagefolder, imagenet and imagenet100
    are JPEG or PNG files in a folder per class."""
    data_path: str | None = None
    """Folder that holds the data set's public files; null for digits. Of folders of images, the one above
    train and val (or test); without train, the one above the class folders."""
    class_list: str | None = None
    """File that names, one per line, the class folders to take; null takes all. imagenet100 needs it.
    Folders of images only."""
    stored_size: int | None = Field(default=None, ge=4)
    """Side, in pixels, of the square cut from the middle of each image file and kept decoded; null is
    image_size x 8/7, as 256 for 224. Folders of images only."""
    cache_budget_gb: float = Field(default=32.0, gt=0, json_schema_extra=NO_EFFECT)
    """Largest size, in GB of 1e9 bytes, of the decoded images of a folder of images; more is refused."""
    num_workers: int | None = Field(default=None, ge=1, json_schema_extra=NO_EFFECT)
    """Threads that decode image files; null is one per CPU. Speed only."""
    max_bad: int = Field(default=0, ge=0, json_schema_extra=NO_EFFECT)
    """Most image files of train, and of test, that are skipped, each named, where they cannot be decoded;
    one more ends the run. Asked when a folder of images is decoded."""
    unlabeled: bool = False
    """Learn from the 100,000 unlabelled images of stl10 too. They have no class, so evaluation and its
    bank go without."""
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

    @model_validator(mode="after")
    def _a_subset_is_named(self) -> Self:
        if self.dataset == "imagenet100" and self.class_list is None:
            raise ValueError(
                "class_list must be given with dataset imagenet100: a file that names its 100 class folders"
            )
        return self

    @property
    def stored_side(self) -> int:
        """Side in pixels at which image files are kept decoded."""
        return self.stored_size or math.ceil(self.image_size * 8 / 7)

    def inert(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.dataset == "digits":
            found["data_path"] = "digits is embedded"
        if self.dataset not in _FOLDERS:
            found |= dict.fromkeys(_OF_FOLDERS, f"{self.dataset} is no folder of images")
        if self.dataset != "stl10":
            found["unlabeled"] = f"{self.dataset} has no unlabelled images"
        return found
