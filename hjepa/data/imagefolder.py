"""Folders of class folders of JPEG or PNG files, ImageNet and subsets of it among them."""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hjepa.data.cache import LABEL_TYPE, require_classes_fit
from hjepa.data.config import DataConfig
from hjepa.data.decode import Encoded, Skipped, decoded
from hjepa.data.items import Files, Items
from hjepa.data.source import Streamable, require_folder, unreadable
from hjepa.schema import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png")
_MEND = (
    "Set data.data_path to a folder with train/CLASS/*.jpg and val/CLASS/*.jpg (or test/CLASS/*.jpg), one "
    f"folder per class; images end in {', '.join(SUFFIXES)}."
)
_IMAGENET_CLASSES = {"imagenet": 1000, "imagenet100": 100}
# The labels of ImageNet's test images are not public.
_TEST_FOLDERS = {"imagefolder": ("test", "val"), "imagenet": ("val",), "imagenet100": ("val",)}


def find(config: DataConfig) -> "ImageFolder":
    """The class folders below `data.data_path`/train, or below `data.data_path` where it has no train.

    Raises ConfigError where they, or those that `data.class_list` names, are not there. Looks into no
    class folder.
    """
    root = _public_folder(require_folder(config.data_path, config.dataset, _MEND), config.dataset)
    train = root / "train" if (root / "train").is_dir() else root
    classes = _subfolders(train)
    if config.class_list is not None:
        classes = _chosen(config.class_list, classes, train)
    if len(classes) < 2:
        key = "data.data_path" if config.class_list is None else "data.class_list"
        raise ConfigError(f"{key}: {len(classes)} class folders of {train}, not 2 or more.\n{_MEND}")
    _require_all_of_imagenet(config, classes, train)
    require_classes_fit(len(classes), f"data.data_path: {train}")
    candidates = [root / name for name in _TEST_FOLDERS[config.dataset]]
    test = next((folder.resolve() for folder in candidates if folder.is_dir() and _subfolders(folder)), None)
    return ImageFolder(
        train=train.resolve(),
        test=test if train != root else None,
        classes=tuple(classes),
        size=config.stored_side,
        num_workers=config.workers,
    )


def _public_folder(root: Path, dataset: str) -> Path:
    """`root`, or where that has no train, what of it is called as the data set and has."""
    names = {"imagenet": ("imagenet",), "imagenet100": ("imagenet100", "imagenet")}.get(dataset, ())
    folders = [folder for folder in (root, *(root / name for name in names)) if (folder / "train").is_dir()]
    return folders[0] if folders else root


@dataclass(frozen=True)
class ImageFolder(Streamable):
    in_any_order = True

    train: Path
    test: Path | None
    classes: tuple[str, ...]
    """Names of class folders, sorted; their order is that of the labels."""
    size: int
    """Side of the stored squares, pixels."""
    # Changes no image, so neither the name of the cache file.
    num_workers: int = field(compare=False, repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def files(self, part: str) -> tuple[Path, ...]:
        """The class folders: to ask after each of a million images would take minutes. A folder changes
        when a file in it is added, removed or replaced, though not when one is written over in place."""
        if part == "train":
            return tuple(self.train / name for name in self.classes)
        if self.test is None:
            raise ConfigError(f"data.data_path: no folder of test images beside {self.train}.\n{_MEND}")
        present = set(_subfolders(self.test))
        if not present & set(self.classes):
            raise ConfigError(f"data.data_path: {self.test} holds no class folder of {self.train}.\n{_MEND}")
        return tuple(self.test / name for name in self.classes if name in present)

    def decode(self, part: str, skipped: Skipped) -> Iterator[np.ndarray]:
        """Squares cut from the middle, in the order of classes and file names, bad images left out."""
        files, labels = self._listed(part)
        images = (Encoded(file, file, label) for file, label in zip(files, labels, strict=True))
        return decoded(images, len(files), self.size, self.num_workers, skipped)

    def decoded_bytes(self, part: str) -> int:
        files, _ = self._listed(part)
        return len(files) * (3 * self.size**2 + LABEL_TYPE.itemsize)

    def items(self, part: str) -> Items:
        files, labels = self._listed(part)
        return Files(files, np.array(labels, np.int64), self.size)

    def _listed(self, part: str) -> tuple[list[str], list[int]]:
        """Every image file of a part, and its class."""
        label_of = {name: label for label, name in enumerate(self.classes)}
        files, labels = [], []
        for folder in self.files(part):
            found = _images(folder)
            files += found
            labels += [label_of[folder.name]] * len(found)
        return files, labels


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from None


def _images(folder: Path) -> list[str]:
    try:
        present = os.listdir(folder)
    except OSError as error:
        raise unreadable(folder, error) from None
    names = sorted(n for n in present if n.lower().endswith(SUFFIXES) and not n.startswith("."))
    if not names:
        raise ConfigError(f"data.data_path: the class folder {folder} holds no images.\n{_MEND}")
    return [os.path.join(folder, name) for name in names]


def _chosen(class_list: str, classes: list[str], train: Path) -> list[str]:
    """Those of `classes` that the first word of each line of a file names."""
    file = Path(os.path.expanduser(class_list))
    mend = "It must hold the name of one class folder per line, as n02869837 in ImageNet; # starts a comment."
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"data.class_list: {file} cannot be read: {error.strerror}.\n{mend}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"data.class_list: {file} is not UTF-8 text.\n{mend}") from None
    words = [line.partition("#")[0].split() for line in lines]
    names = [found[0] for found in words if found]
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=1)
            nearest = f" Nearest: {near[0]}." if near else ""
            raise ConfigError(
                f"data.class_list: {file} names {name}, which is no folder of {train}.{nearest}\n{mend}"
            )
        if names.count(name) > 1:
            raise ConfigError(f"data.class_list: {file} names {name} twice.\n{mend}")
    return sorted(names)


def _require_all_of_imagenet(config: DataConfig, classes: list[str], train: Path) -> None:
    wanted = _IMAGENET_CLASSES.get(config.dataset)
    if wanted is None or len(classes) == wanted:
        return
    if config.class_list is None:
        if config.dataset == "imagenet100":
            raise ConfigError(
                f"data.class_list: null is not allowed: {train} holds {len(classes)} class folders, not "
                f"{wanted}.\nSet it to a file that names {wanted} of them, one per line."
            )
        raise ConfigError(
            f"data.data_path: {train} holds {len(classes)} class folders, imagenet has {wanted:,}.\n"
            "Unpack what is missing, or set data.dataset to imagefolder to take the classes that are there."
        )
    if config.dataset == "imagenet100":
        raise ConfigError(
            f"data.class_list: {config.class_list} names {len(classes)} classes, imagenet100 has {wanted}.\n"
            "Name as many, or set data.dataset to imagenet for a subset of another size."
        )
