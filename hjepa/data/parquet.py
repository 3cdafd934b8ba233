"""Hugging Face data sets on disk: parquet shards with a column of encoded images and one of classes.

https://huggingface.co/docs/datasets/about_dataset_features (Image, ClassLabel)
"""

import importlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.data.cache import LABEL_TYPE, MOST_CLASSES, NO_LABEL, require_classes_fit
from hjepa.data.config import DataConfig
from hjepa.data.decode import Encoded, Skipped, decoded
from hjepa.data.items import Items, Job, Outcome, outcome
from hjepa.data.source import Streamable, require_folder
from hjepa.schema import ConfigError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "fine_labels")
_TEST_PARTS = ("test", "validation", "valid", "val")
_SHARD = re.compile(r"(?P<part>[a-z]+)(?:[-_.](?P<number>\d+)-of-(?P<count>\d+))?(?:[-_.].*)?")
_MEND = (
    "Set data.data_path to a folder with train-00000-of-00001.parquet and the like (and test-*, or "
    "validation-*), or to one with such files in data/, train/ or test/."
)


def find(config: DataConfig) -> "Parquet":
    """The shards in the folder that `data.data_path` names, in its data folder, or in a folder per part.

    Raises ConfigError where pyarrow, a shard or a column is missing.
    """
    _pyarrow()
    root = require_folder(config.data_path, config.dataset, _MEND)
    parts = _shards(root)
    if "train" not in parts:
        found = f"parts {', '.join(sorted(parts))}" if parts else "no *.parquet files"
        raise ConfigError(f"data.data_path: {root} holds {found}, not train.\n{_MEND}")
    image, label, num_classes = _columns(parts["train"][0])
    require_classes_fit(num_classes or 0, f"data.data_path: {parts['train'][0]}: column {label}")
    return Parquet(
        train=parts["train"],
        tests=tuple(parts[name] for name in _TEST_PARTS if name in parts),
        image=image,
        label=label,
        named_classes=num_classes,
        size=config.stored_side,
        num_workers=config.workers,
    )


@dataclass(frozen=True)
class Parquet(Streamable):
    train: tuple[Path, ...]
    tests: tuple[tuple[Path, ...], ...]
    """Shards of the parts that may be the test set."""
    image: str
    """Column of images."""
    label: str
    """Column of classes."""
    named_classes: int | None
    """As the shards name them; None where they do not."""
    size: int
    """Side of the stored squares, pixels."""
    # Changes no image, so neither the name of the cache file.
    num_workers: int = field(compare=False, repr=False)

    @property
    def num_classes(self) -> int:
        return self.named_classes or int(self._labels("train").max()) + 1

    def files(self, part: str) -> tuple[Path, ...]:
        """The shards. The test set is the first part that has classes: those of test are often secret."""
        if part == "train":
            return self.train
        for shards in self.tests:
            secret = _lacks(shards[0], self.label) is not None
            if not secret and (_labels_of(shards[0], self.label) != NO_LABEL).any():
                return shards
        raise ConfigError(
            f"data.data_path: no test-* or validation-* with classes beside {self.train[0]}.\n{_MEND}"
        )

    def decoded_bytes(self, part: str) -> int:
        rows = sum(_opened(file).metadata.num_rows for file in self.files(part))
        return rows * (3 * self.size**2 + LABEL_TYPE.itemsize)

    def decode(self, part: str, skipped: Skipped) -> Iterator[np.ndarray]:
        """Squares cut from the middle, in the order of shards and rows, bad images left out."""
        labels_M = self._labels(part)
        return decoded(self._encoded(part, labels_M), len(labels_M), self.size, self.num_workers, skipped)

    def items(self, part: str) -> Items:
        return _Rows(self.files(part), self.image, self._labels(part), self.size)

    def _labels(self, part: str) -> np.ndarray:
        for file in self.files(part):
            if problem := _lacks(file, self.image, self.label):
                raise ConfigError(f"data.data_path: {file} {problem}.")
        labels_M = np.concatenate([_labels_of(file, self.label) for file in self.files(part)])
        limit = self.named_classes or MOST_CLASSES
        if labels_M.max(initial=0) >= limit or labels_M.min(initial=0) < NO_LABEL:
            raise ConfigError(
                f"data.data_path: {self.files(part)[0].parent}: column {self.label} holds classes outside "
                f"0 to {limit - 1:,}."
            )
        return labels_M

    def _encoded(self, part: str, labels_M: np.ndarray) -> Iterator[Encoded]:
        labels = iter(labels_M.tolist())
        for file in self.files(part):
            row = 0
            for group in range(_opened(file).metadata.num_row_groups):
                for content in _images(str(file), group, self.image):
                    yield _image(str(file), row, content, next(labels))
                    row += 1


class _Rows(Items):
    """Rows of shards."""

    def __init__(self, files: tuple[Path, ...], image: str, labels_M: np.ndarray, side: int):
        self.image, self.labels_M, self.side = image, labels_M, side
        self.groups = [
            (str(file), group, metadata.row_group(group).num_rows)
            for file in files
            for metadata in [_opened(file).metadata]
            for group in range(metadata.num_row_groups)
        ]
        self.starts = np.cumsum([0, *(rows for _, _, rows in self.groups)])
        first: dict[str, int] = {}
        for start, (file, _, _) in zip(self.starts.tolist(), self.groups, strict=False):
            first.setdefault(file, start)
        self.first = first
        """Index of each shard's first row."""

    def job(self, indices_B: np.ndarray) -> Job:
        group_B = np.searchsorted(self.starts, indices_B, side="right") - 1
        rows = [
            (*self.groups[group][:2], int(index - self.starts[group]), self._row(int(index), group))
            for index, group in zip(indices_B, group_B, strict=True)
        ]
        return _RowsJob(rows, self.image, self.side)

    def name(self, index: int) -> str:
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self.groups[group][0]}: row {self._row(index, group)}"

    def called(self) -> Iterable[str]:
        return (Path(file).name for file in self.first)

    def _row(self, index: int, group: int) -> int:
        return index - self.first[self.groups[group][0]]


@dataclass(frozen=True)
class _RowsJob(Job):
    """A row group is read whole, whatever is taken of it: there is no other way into a column of bytes."""

    rows: list[tuple[str, int, int, int]]
    """Shard, row group, position in that, row of the shard."""
    image: str
    size: int

    def run(self) -> Outcome:
        order = sorted(range(len(self.rows)), key=lambda position: self.rows[position])
        images: dict[int, Encoded] = {}
        for (file, group), positions in groupby(order, key=lambda position: self.rows[position][:2]):
            contents = _images(file, group, self.image)
            for position in positions:
                _, _, within, row = self.rows[position]
                images[position] = _image(file, row, contents[within], NO_LABEL)
        return outcome((images[position] for position in range(len(self.rows))), self.size)


def _image(file: str, row: int, content: bytes | str, label: int) -> Encoded:
    """`content` is what an image file would hold, or in words why there is none."""
    name = f"{file}: row {row}"
    if isinstance(content, str):
        return Encoded(name, b"", label, problem=content)
    return Encoded(name, content, label)


def _images(file: str, group: int, column: str) -> list[bytes | str]:
    """Encoded images of a row group, or in words why there is none."""
    shard = _opened(Path(file))
    try:
        values = shard.read_row_group(group, columns=[column], use_threads=False).column(0).to_pylist()
    except (_pyarrow().lib.ArrowException, OSError) as error:
        problem = f"row group {group} cannot be read: {' '.join(str(error).split())}"
        return [problem] * shard.metadata.row_group(group).num_rows
    return [_bytes(value) for value in values]


def _bytes(value: Any) -> bytes | str:
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else "there are no bytes of it in the shard"


def _labels_of(file: Path, column: str) -> np.ndarray:
    shard = _opened(file)
    try:
        values = shard.read(columns=[column]).column(0).cast("int64")  # -1 fits no unsigned number
    except (_pyarrow().lib.ArrowException, OSError) as error:
        raise _damaged(file, error) from None
    return values.fill_null(NO_LABEL).to_numpy()


def _lacks(file: Path, *columns: str) -> str | None:
    """In words, which of `columns` a shard has not, and what it has; None where it has all of them."""
    schema = _opened(file).schema_arrow
    missing = [column for column in columns if column not in schema.names]
    return f"has no column {' and '.join(missing)}; it has {_present(schema)}" if missing else None


def _present(schema: Any) -> str:
    return ", ".join(f"{one.name} ({one.type})" for one in schema)


def _columns(file: Path) -> tuple[str, str, int | None]:
    """The columns of images and of classes, and the number of classes where they have names."""
    schema = _opened(file).schema_arrow
    types = _pyarrow().types
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    present = _present(schema)
    for found, wanted in ((image, IMAGE_COLUMNS), (label, LABEL_COLUMNS)):
        if found is None:
            raise ConfigError(
                f"data.data_path: {file} has none of the columns {', '.join(wanted)}; it has {present}."
            )
    assert image is not None
    assert label is not None
    kind = schema.field(image).type
    has_bytes = types.is_struct(kind) and any(kind[i].name == "bytes" for i in range(kind.num_fields))
    if not (has_bytes or types.is_binary(kind) or types.is_large_binary(kind)):
        raise ConfigError(
            f"data.data_path: {file}: column {image} holds no encoded images; it has {present}."
        )
    if not types.is_integer(schema.field(label).type):
        raise ConfigError(f"data.data_path: {file}: column {label} holds no whole numbers; it has {present}.")
    return image, label, _named_classes(schema, label)


def _named_classes(schema: Any, label: str) -> int | None:
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]
        return len(described["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _opened(file: Path) -> Any:
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        return parquet.ParquetFile(file)
    except (_pyarrow().lib.ArrowException, OSError) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> ConfigError:
    return ConfigError(f"data.data_path: {file} is damaged: {' '.join(str(error).split())}")


def _shards(root: Path) -> dict[str, tuple[Path, ...]]:
    """Shards by part, `train`, `test` and whatever else there is, in their order."""
    found: dict[str, set[Path]] = {}
    for file in sorted([*root.glob("*.parquet"), *root.glob("*/*.parquet")]):
        named = file.parent.name if file.parent != root and file.parent.name != "data" else file.name
        match = _SHARD.fullmatch(named.removesuffix(".parquet").lower())
        if match is not None and not file.name.startswith("."):
            found.setdefault(match["part"], set()).add(file.resolve())
    for files in found.values():
        _require_all(files)
    return {part: tuple(sorted(files)) for part, files in found.items()}


def _require_all(files: Iterable[Path]) -> None:
    numbered = {file: _SHARD.fullmatch(file.stem.lower()) for file in files}
    for file, match in numbered.items():
        if match is None or match["count"] is None:
            continue
        alike = [m for m in numbered.values() if m is not None and m["count"] == match["count"]]
        missing = set(range(int(match["count"]))) - {int(m["number"]) for m in alike}
        if missing:
            names = ", ".join(
                f"{match['part']}-{number:05}-of-{match['count']}" for number in sorted(missing)[:5]
            )
            raise ConfigError(f"data.data_path: {file.parent} is incomplete, it lacks {names}.\n{_MEND}")


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError:
        raise ConfigError(
            "data.dataset: parquet needs the package pyarrow: pip install pyarrow, or hjepa-sweep[parquet]."
        ) from None
