"""The `data` section of a run's config."""

from typing import Literal

from pydantic import Field

from hjepa.data.augmentation import AugmentationConfig
from hjepa.schema import NO_EFFECT, Config


class DataConfig(Config):
    """Which images are learnt from, and how they reach the model."""

    dataset: Literal["digits", "cifar10", "cifar100", "stl10"] = "digits"
    """Data set; digits is embedded, 1,797 grey images of 8x8 pixels."""
    data_path: str | None = None
    """Folder that holds the data set's public files; null for digits."""
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

    def inert(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.dataset == "digits":
            found["data_path"] = "digits is embedded"
        if self.dataset != "stl10":
            found["unlabeled"] = f"{self.dataset} has no unlabelled images"
        return found
