"""What every data set offers: where its files are, and their decoding."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hjepa.data.decode import Skipped
from hjepa.data.items import Items
from hjepa.schema import ConfigError


class Source(ABC):
    """A data set's files, found and not yet decoded; equal sources give equal images.

    Parts are `train` and `test`. Subclasses are frozen dataclasses.
    """

    @property
    @abstractmethod
    def num_classes(self) -> int: ...

    @abstractmethod
    def files(self, part: str) -> tuple[Path, ...]:
        """Files or folders of a part: while none of them changes, what was decoded stands."""

    def split_files(self) -> tuple[Path, ...]:
        """Those of the training images that some are held out of: sets with the same hold out the same."""
        return self.files("train")

    @abstractmethod
    def decode(self, part: str, skipped: Skipped) -> Iterator[np.ndarray]:
        """The part's records, a chunk at a time; images that cannot be decoded are left out and added to
        `skipped`. Raises ConfigError naming a file that is damaged as a whole."""

    def decoded_bytes(self, part: str) -> int:
        """About what the part's records take; that of the files, unless said otherwise."""
        return sum(file.stat().st_size for file in self.files(part))


class Streamable(Source):
    """A source whose images can be decoded one by one; others are kept decoded as a whole."""

    in_any_order = False
    """Whether that takes no longer than decoding them in their order."""

    @abstractmethod
    def items(self, part: str) -> Items:
        """The part image by image, in the order of `decode`, damaged ones included."""


def require_folder(data_path: str | None, dataset: str, mend: str) -> Path:
    """The folder that `data.data_path` names. Raises ConfigError, ending in `mend`, where it names none."""
    if data_path is None:
        raise ConfigError(f"data.data_path: null is not allowed with data.dataset {dataset}.\n{mend}")
    root = Path(os.path.expanduser(data_path))
    try:
        if root.is_dir():
            return root
        here = "" if root.is_absolute() else f" in {Path.cwd()}"
        problem = "is not a folder" if root.exists() else f"does not exist{here}"
    except OSError as error:
        raise unreadable(root, error) from None
    raise ConfigError(f"data.data_path: {data_path!r} {problem}.\n{mend}")


def require_files(candidates: list[list[Path]], data_path: str | None, title: str, mend: str) -> list[Path]:
    """The first of several alternative lists of files that is there whole.

    Raises ConfigError where none is, naming what the most complete one lacks.
    """
    try:
        present = [sum(file.is_file() for file in files) for files in candidates]
        best = max(range(len(candidates)), key=present.__getitem__)
        missing = [file for file in candidates[best] if not file.is_file()]
    except OSError as error:
        raise ConfigError(f"data.data_path: {data_path!r} cannot be read: {error.strerror}.") from None
    if not missing:
        return candidates[best]
    if present[best] == 0:
        raise ConfigError(f"data.data_path: {data_path!r} holds no {title}.\n{mend}")
    names = ", ".join(file.name for file in missing)
    raise ConfigError(f"data.data_path: {missing[0].parent} is incomplete, it lacks {names}.\n{mend}")


def unreadable(file: Path, error: OSError) -> ConfigError:
    return ConfigError(f"data.data_path: {file} cannot be read: {error.strerror or error}.")
