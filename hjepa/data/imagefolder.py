"""Folders of class folders of JPEG or PNG files, ImageNet and subsets of it among them.

Shape letters: C channels, S x S stored size in pixels.
"""

import difflib
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from hjepa.data.cache import LABEL_TYPE, records
from hjepa.data.config import DataConfig
from hjepa.data.source import Source, require_folder, unreadable
from hjepa.schema import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png")
PROGRESS_S = 10.0
"""Seconds between two lines about a long decoding."""
_CHUNK_IMAGES = 512
_SHOWN = 5
_MEND = (
    "Set data.data_path to a folder with train/CLASS/*.jpg and val/CLASS/*.jpg (or test/CLASS/*.jpg), one "
    f"folder per class; images end in {', '.join(SUFFIXES)}."
)
_IMAGENET_CLASSES = {"imagenet": 1000, "imagenet100": 100}
# The labels of ImageNet's test images are not public.
_TEST_FOLDERS = {"imagefolder": ("test", "val"), "imagenet": ("val",), "imagenet100": ("val",)}

log = logging.getLogger(__name__)


def find(config: DataConfig) -> "ImageFolder":
    """The class folders below `data.data_path`/train, or below `data.data_path` where it has no train.

    Raises ConfigError where they, or those that `data.class_list` names, are not there. Looks into no
    class folder.
    """
    root = require_folder(config.data_path, config.dataset, _MEND)
    train = root / "train" if (root / "train").is_dir() else root
    classes = _subfolders(train)
    if config.class_list is not None:
        classes = _chosen(config.class_list, classes, train)
    if len(classes) < 2:
        key = "data.data_path" if config.class_list is None else "data.class_list"
        raise ConfigError(f"{key}: {len(classes)} class folders of {train}, not 2 or more.\n{_MEND}")
    _require_all_of_imagenet(config, classes, train)
    candidates = [root / name for name in _TEST_FOLDERS[config.dataset]]
    test = next((folder.resolve() for folder in candidates if folder.is_dir() and _subfolders(folder)), None)
    return ImageFolder(
        train=train.resolve(),
        test=test if train != root else None,
        classes=tuple(classes),
        size=config.stored_side,
        num_workers=config.num_workers or os.cpu_count() or 1,
        max_bad=config.max_bad,
        budget_gb=config.cache_budget_gb,
    )


@dataclass(frozen=True)
class ImageFolder(Source):
    train: Path
    test: Path | None
    classes: tuple[str, ...]
    """Names of class folders, sorted; their order is that of the labels."""
    size: int
    """Side of the stored squares, pixels."""
    # What follows changes no image, so neither the name of the cache file.
    num_workers: int = field(compare=False, repr=False)
    max_bad: int = field(compare=False, repr=False)
    budget_gb: float = field(compare=False, repr=False)

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

    def decode(self, part: str) -> Iterator[np.ndarray]:
        """Squares cut from the middle, in the order of classes and file names, bad images left out."""
        files = [file for folder in self.files(part) for file in _images(folder)]
        self._require_room(len(files))
        label_of = {name: label for label, name in enumerate(self.classes)}
        bad: list[str] = []
        start_s = told_s = time.monotonic()
        with ThreadPoolExecutor(self.num_workers) as pool:
            for start in range(0, len(files), _CHUNK_IMAGES):
                chunk = files[start : start + _CHUNK_IMAGES]
                images, labels = [], []
                for file, found in zip(chunk, pool.map(self._square_or_problem, chunk), strict=True):
                    if isinstance(found, str):
                        bad.append(f"{file}: {found}")
                        self._tolerate(bad)
                    else:
                        images.append(found)
                        labels.append(label_of[file.parent.name])
                if images:
                    yield records(np.stack(images), np.array(labels))
                done, now_s = start + len(chunk), time.monotonic()
                if now_s - told_s >= PROGRESS_S:
                    told_s = now_s
                    rate = done / (now_s - start_s)
                    log.warning("decoded %s of %s %s images, %.0f a second", done, len(files), part, rate)
        if len(bad) == len(files):
            raise ConfigError(f"data.data_path: none of the {len(files)} {part} images can be decoded.")
        if bad:
            log.warning("skipped %d of %d %s images in all", len(bad), len(files), part)

    def _square_or_problem(self, file: Path) -> np.ndarray | str:
        try:
            return decode_square(file, self.size)
        except Exception as error:  # noqa: BLE001 (a damaged image can raise any exception)
            return " ".join(str(error).split()) or type(error).__name__

    def _tolerate(self, bad: list[str]) -> None:
        """Name the last of the bad images; ConfigError where it is one too many."""
        if len(bad) <= self.max_bad:
            log.warning("skipped %s", bad[-1])
            return
        more = "" if len(bad) <= _SHOWN else f"\n  and {len(bad) - _SHOWN} more"
        raise ConfigError(
            f"data.max_bad: {self.max_bad} is not enough, {len(bad)} or more images cannot be decoded:\n  "
            + "\n  ".join(bad[-_SHOWN:])
            + f"{more}\nRepair or remove them, or set data.max_bad to as many as may be skipped."
        )

    def _require_room(self, count: int) -> None:
        needed_gb = count * (3 * self.size**2 + LABEL_TYPE.itemsize) / 1e9
        if needed_gb > self.budget_gb:
            raise ConfigError(
                f"data.cache_budget_gb: {self.budget_gb:g} is not enough: {count:,} images of "
                f"3 x {self.size} x {self.size} bytes decode to {needed_gb:.3g} GB.\n"
                "Raise it if the folder of data.cache_dir has the room, lower data.stored_size, or take "
                "fewer classes by data.class_list; streaming from the image files is not built yet."
            )


def decode_square(file: Path, size: int) -> np.ndarray:
    """The largest square in the middle of an image, resized, as (3, S, S) uint8.

    Raises OSError, or whatever else Pillow does, where the file is damaged.
    """
    with Image.open(file) as opened:
        image: Image.Image = opened
        if image.mode.startswith(("I", "F")):
            # Pillow cuts such values off at 255.
            raise ValueError(f"pixels of more than 8 bits (mode {image.mode}) are not supported")
        # Large JPEGs are decoded at 1/2, 1/4 or 1/8, which leaves twice the size at least.
        image.draft(None, (2 * size, 2 * size))
        if "transparency" in image.info:
            image = image.convert("RGBA")  # straight to RGB, Pillow warns
        image = image.convert("RGB")
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square).transpose(2, 0, 1)


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from None


def _images(folder: Path) -> list[Path]:
    try:
        present = os.listdir(folder)
    except OSError as error:
        raise unreadable(folder, error) from None
    names = sorted(n for n in present if n.lower().endswith(SUFFIXES) and not n.startswith("."))
    if not names:
        raise ConfigError(f"data.data_path: the class folder {folder} holds no images.\n{_MEND}")
    return [folder / name for name in names]


def _chosen(class_list: str, classes: list[str], train: Path) -> list[str]:
    """Those of `classes` that the first word of each line of a file names."""
    file = Path(class_list).expanduser()
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
        raise ConfigError(
            f"data.data_path: {train} holds {len(classes)} class folders, imagenet has {wanted:,}.\n"
            "Unpack what is missing, or set data.dataset to imagefolder to take the classes that are there."
        )
    if config.dataset == "imagenet100":
        raise ConfigError(
            f"data.class_list: {config.class_list} names {len(classes)} classes, imagenet100 has {wanted}.\n"
            "Name as many, or set data.dataset to imagenet for a subset of another size."
        )
