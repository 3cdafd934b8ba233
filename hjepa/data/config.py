"""The `data` section of a run's config."""

import math
import os
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from hjepa.data.augmentation import AugmentationConfig
from hjepa.data.multicrop import MulticropConfig
from hjepa.schema import NO_EFFECT, Config

Dataset = Literal[
    "digits", "cifar10", "cifar100", "stl10", "imagefolder", "imagenet", "imagenet100", "parquet"
]
_FOLDERS = {"imagefolder", "imagenet", "imagenet100"}
_DECODED = _FOLDERS | {"parquet"}
_OF_DECODED = ("stored_size", "num_workers", "max_bad")


class OneOfSeveral(Config):
    """A data set of `data.datasets`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What it is called in records; the kind of data set too, unless `dataset` gives that."""
    dataset: Dataset | None = None
    """As data.dataset; null is the one called `name`."""
    path: str | None = None
    """As data.data_path, which stands in where this is null."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the images drawn, relative to the others' weights; sampling_strategy weighted only."""
    class_list: str | None = None
    """As data.class_list."""
    unlabeled: bool = False
    """As data.unlabeled."""

    @property
    def kind(self) -> str:
        return self.dataset or self.name

    @model_validator(mode="after")
    def _kind_is_known(self) -> Self:
        if self.kind not in get_args(Dataset):
            raise ValueError(
                f"name {self.name} is no known data set; give its kind by dataset: one of "
                f"{', '.join(get_args(Dataset))}"
            )
        return self


class DataConfig(Config):
    """Which images are learnt from, and how they reach the model."""

    dataset: Dataset = "digits"
    """Data set; digits is embedded, 1,797 grey images of 8x8 pixels. imagefolder, imagenet and imagenet100
    are JPEG or PNG files in a folder per class, parquet is Hugging Face's shards of encoded images."""
    data_path: str | None = None
    """Folder that holds the data set's public files; null for digits. Of folders of images, the one above
    train and val (or test); without train, the one above the class folders."""
    class_list: str | None = None
    """File that names, one per line, the class folders to take; null takes all. imagenet100 needs it
    where there are not just its 100. Folders of images only."""
    stored_size: int | None = Field(default=None, ge=4, le=65536)
    """Side, in pixels, of the square cut from the middle of each image file and kept decoded; null is
    image_size x 8/7, as 256 for 224. Folders of images and parquet only."""
    cache_budget_gb: float = Field(default=32.0, gt=0, json_schema_extra=NO_EFFECT)
    """Largest size, in GB of 1e9 bytes, of the decoded images; what does not fit is decoded by worker
    processes each time it is drawn. Of several data sets, those listed first fit first. CIFAR and digits
    are always kept decoded. Speed and place only."""
    num_workers: int | None = Field(default=None, ge=1, le=1024, json_schema_extra=NO_EFFECT)
    """Threads that decode image files into the cache, and processes that decode what is not kept there;
    null is one per CPU. Speed only."""
    max_bad: int = Field(default=0, ge=0, json_schema_extra=NO_EFFECT)
    """Most images of train, and of test, that are skipped, each named, where they cannot be decoded; one
    more ends the run."""
    unlabeled: bool = False
    """Learn from the 100,000 unlabelled images of stl10 too. They have no class, so evaluation and its
    bank go without."""
    use_multi_dataset: bool = False
    """Learn from all of `datasets` instead of the one that `dataset` names."""
    datasets: tuple[OneOfSeveral, ...] = ()
    """Data sets of use_multi_dataset: maps of name, path (null: data_path), weight, and where apt dataset,
    class_list and unlabeled. Smaller images are brought to the largest set's stored side."""
    sampling_strategy: Literal["weighted", "concat", "balanced"] = "weighted"
    """What an epoch of use_multi_dataset draws, as many images as the sets have for training in all:
    weighted, shares by weight; balanced, equal shares; concat, every image once. A set comes round again
    only when all of it has been drawn."""
    evaluate_on: str | None = None
    """Name of the one of `datasets` whose images are evaluated on, bank and test set too; null is the
    first."""
    image_size: int = Field(default=16, ge=4, le=65536)
    """Side of the square image that the model sees, in pixels."""
    batch_size: int = Field(default=64, ge=2)
    """Images per micro-batch of the optimizer."""
    val_fraction: float = Field(default=0.25, gt=0, le=0.5)
    """Share of the training images, of each class, held out for evaluation."""
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of that split. Apart from the run's seed, so that runs of different seeds are compared on the
    same images."""
    pin_memory: bool = Field(default=True, json_schema_extra=NO_EFFECT)
    """Page-locked host memory for copies to CUDA. Speed only."""
    cache_dir: str | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """Folder for decoded images; null is $XDG_CACHE_HOME/hjepa or ~/.cache/hjepa. Place only."""
    augmentation: AugmentationConfig = AugmentationConfig()
    use_multicrop: bool = False
    """Learn from several crops of each image at a time."""
    multicrop: MulticropConfig = MulticropConfig()

    @model_validator(mode="after")
    def _several_are_told_apart(self) -> Self:
        names = [one.name for one in self.datasets]
        if self.use_multi_dataset and not names:
            raise ValueError("datasets must list at least one data set with use_multi_dataset: true")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"datasets has two of the name {twice}; name one differently and give its kind by dataset"
            )
        if self.use_multi_dataset and self.evaluate_on is not None and self.evaluate_on not in names:
            raise ValueError(f"evaluate_on is {self.evaluate_on}, datasets has {', '.join(names)}")
        return self

    @property
    def stored_side(self) -> int:
        """Side in pixels at which image files are kept decoded."""
        return self.stored_size or math.ceil(self.image_size * 8 / 7)

    @property
    def workers(self) -> int:
        """Threads, or processes, that decode."""
        return self.num_workers or os.cpu_count() or 1

    @property
    def title(self) -> str:
        """What is learnt from, for messages."""
        return " + ".join(self.sets())

    @property
    def evaluated(self) -> str:
        """Name of the data set whose images are evaluated on."""
        first = next(iter(self.sets()))
        return (self.evaluate_on or first) if self.use_multi_dataset else first

    def sets(self) -> dict[str, Self]:
        """Each data set by its name, as the config of a run that learns from it alone."""
        if not self.use_multi_dataset:
            return {self.dataset: self}
        return {one.name: self._alone(one) for one in self.datasets}

    def _alone(self, one: OneOfSeveral) -> Self:
        changed = {
            "dataset": one.kind,
            "data_path": one.path or self.data_path,
            "class_list": one.class_list,
            "unlabeled": one.unlabeled,
            "use_multi_dataset": False,
            "datasets": (),
            "evaluate_on": None,
        }
        return self.model_copy(update=changed)

    def inert(self) -> dict[str, str]:
        kinds = {one.dataset for one in self.sets().values()}
        found: dict[str, str] = {}
        if self.use_multi_dataset:
            found |= dict.fromkeys(("dataset", "class_list", "unlabeled"), "datasets gives it for each set")
            if all(one.path or one.kind == "digits" for one in self.datasets):
                found["data_path"] = "datasets gives a path for each set"
            if len(self.datasets) == 1:
                found |= dict.fromkeys(("sampling_strategy", "evaluate_on"), "datasets has one set")
            for number, one in enumerate(self.datasets):
                found |= {f"datasets[{number}].{key}": why for key, why in self._inert_of(one).items()}
        else:
            several = ("datasets", "sampling_strategy", "evaluate_on")
            found |= dict.fromkeys(several, "use_multi_dataset is false")
            found |= _inert_of_kind(self.dataset, path="data_path")
        if not kinds & _DECODED:
            found |= dict.fromkeys(_OF_DECODED, f"{self.title} has no image files")
        if not kinds & (_DECODED | {"stl10"}):
            found["cache_budget_gb"] = f"{self.title} is always cached"
        if not self.use_multicrop:
            found["multicrop"] = "data.use_multicrop is false"
        return found

    def _inert_of(self, one: OneOfSeveral) -> dict[str, str]:
        """Of one of several data sets, what cannot matter."""
        found = _inert_of_kind(one.kind, path="path")
        if len(self.datasets) == 1:
            found["weight"] = "datasets has one set"
        elif self.sampling_strategy != "weighted":
            found["weight"] = f"data.sampling_strategy is {self.sampling_strategy}"
        return found


def _inert_of_kind(kind: str, path: str) -> dict[str, str]:
    """What cannot matter of a data set of this kind, whose folder the key `path` names."""
    found: dict[str, str] = {}
    if kind == "digits":
        found[path] = "digits is embedded"
    if kind not in _FOLDERS:
        found["class_list"] = f"{kind} is no folder of images"
    if kind != "stl10":
        found["unlabeled"] = f"{kind} has no unlabelled images"
    return found
