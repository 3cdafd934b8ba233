"""Hugging Face parquet shards on disk."""

import importlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hjepa.data import DataConfig, Split, check_data, load_data, load_test
from hjepa.data.decode import decode_square
from hjepa.data.stream import Streamed
from hjepa.schema import ConfigError
from tests.hjepa.data.formats import encoded_image, write_parquet

COUNT, SIDE = 24, 12


def all_images(split: Split) -> np.ndarray:
    return split.images(np.arange(len(split)))


def encoded(part: str) -> list[bytes | None]:
    first = {"train": 0, "test": 1000}[part]
    return [encoded_image(first + i, 18 + i, 24, ("JPEG", "PNG")[i % 2]) for i in range(COUNT)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 training images of 3 classes in two shards, and as many test images."""
    root = tmp_path / "shards"
    labels = [i % 3 for i in range(COUNT)]
    write_parquet(root / "train-00000-of-00002.parquet", encoded("train")[:10], labels[:10])
    write_parquet(root / "train-00001-of-00002.parquet", encoded("train")[10:], labels[10:])
    write_parquet(root / "test-00000-of-00001.parquet", encoded("test"), labels)
    return root


def config(folder: Path, **changed: Any) -> DataConfig:
    given = {"dataset": "parquet", "data_path": str(folder), "stored_size": SIDE, "num_workers": 2}
    return DataConfig.model_validate({**given, "cache_dir": str(folder.parent / "cache"), **changed})


def squares(images: list[bytes | None]) -> np.ndarray:
    return np.stack([decode_square(image or b"", SIDE) for image in images])


def test_images_and_classes_are_those_of_the_rows_in_the_order_of_shards(folder: Path):
    data, test = load_data(config(folder)), load_test(config(folder))
    assert data.num_classes == 3
    np.testing.assert_array_equal(all_images(data.train), squares(encoded("train"))[data.train.indices_N])
    np.testing.assert_array_equal(data.train.labels_N, data.train.indices_N % 3)
    np.testing.assert_array_equal(all_images(test), squares(encoded("test")))
    np.testing.assert_array_equal(test.labels_N, np.arange(COUNT) % 3)


def test_over_the_budget_rows_are_streamed_with_the_same_numbers(folder: Path):
    streamed, cached = load_data(config(folder, cache_budget_gb=1e-9)), load_data(config(folder))
    assert isinstance(streamed.train.stored_MCHW, Streamed)
    batches = np.split(np.random.default_rng(0).permutation(len(streamed.train)), [7])
    with streamed.train.ahead(batches):
        for batch in batches:
            np.testing.assert_array_equal(streamed.train.images(batch), cached.train.images(batch))
    np.testing.assert_array_equal(streamed.mean_C, cached.mean_C)
    np.testing.assert_array_equal(streamed.val.labels_N, cached.val.labels_N)


@pytest.mark.parametrize("below", ["data/train-0-of-1.parquet", "train/0000.parquet", "train.parquet"])
def test_other_layouts_of_the_hub_are_found(tmp_path: Path, below: str):
    write_parquet(tmp_path / "shards" / below, encoded("train"), [i % 2 for i in range(COUNT)])
    found = load_data(config(tmp_path / "shards"))
    assert len(found.train) + len(found.val) == COUNT
    with pytest.raises(ConfigError, match=r"no test-\* or validation-\* with classes"):
        load_test(config(tmp_path / "shards"))


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_columns_are_found_by_their_usual_names(tmp_path: Path, image: str, label: str):
    write_parquet(
        tmp_path / "shards" / "train.parquet", encoded("train"), [i % 3 for i in range(COUNT)],
        image=image, label=label,
    )  # fmt: skip
    assert load_data(config(tmp_path / "shards")).num_classes == 3


def test_columns_that_are_not_there_are_an_error_that_lists_those_that_are(tmp_path: Path):
    write_parquet(tmp_path / "train.parquet", encoded("train"), [0] * COUNT, image="photo")
    with pytest.raises(ConfigError, match="has none of the columns image, img; it has photo") as raised:
        check_data(config(tmp_path))
    assert "label (int64)" in str(raised.value)
    write_parquet(tmp_path / "train.parquet", encoded("train"), [0] * COUNT, label="kind")
    with pytest.raises(ConfigError, match="none of the columns label, labels, fine_label"):
        check_data(config(tmp_path))


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_shard_without_a_column_that_the_first_one_has_is_named(folder: Path, column: str):
    file = folder / "train-00001-of-00002.parquet"
    write_parquet(file, encoded("train"), [0] * COUNT, **{column: "other"})
    for changed in ({}, {"cache_budget_gb": 1e-9}):
        with pytest.raises(ConfigError) as raised:
            load_data(config(folder, **changed))
        assert str(raised.value).startswith(f"data.data_path: {file} has no column {column}; it has ")


def test_classes_with_names_are_counted_by_them(folder: Path):
    name_classes(folder / "train-00000-of-00002.parquet", 7)
    assert load_data(config(folder)).num_classes == 7


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint32", "uint64"])
def test_classes_may_be_whole_numbers_of_any_width(folder: Path, kind: str):
    pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    expected = load_data(config(folder)).train.labels_N
    for file in folder.glob("train-*.parquet"):
        table = parquet.read_table(file)
        position = table.schema.get_field_index("label")
        parquet.write_table(
            table.set_column(position, "label", table["label"].cast(pa.type_for_alias(kind))), file
        )
    np.testing.assert_array_equal(load_data(config(folder)).train.labels_N, expected)


def name_classes(file: Path, count: int) -> None:
    parquet = importlib.import_module("pyarrow.parquet")
    features = {"label": {"names": [f"class {i}" for i in range(count)], "_type": "ClassLabel"}}
    described = json.dumps({"info": {"features": features}})
    table = parquet.read_table(file)
    parquet.write_table(table.replace_schema_metadata({b"huggingface": described.encode()}), file)


def test_more_classes_than_are_told_apart_are_refused(folder: Path):
    file = folder / "train-00000-of-00002.parquet"
    name_classes(file, 40_000)
    with pytest.raises(ConfigError, match=r"column label has 40,000 classes; 32,767 is the most"):
        check_data(config(folder))
    name_classes(file, 0)
    write_parquet(folder / "train-00001-of-00002.parquet", encoded("train")[:2], [0, 40_000])
    with pytest.raises(ConfigError, match=r"column label holds classes outside 0 to 32,766"):
        load_data(config(folder))


def test_a_test_part_without_classes_gives_way_to_validation(folder: Path):
    write_parquet(folder / "test-00000-of-00001.parquet", encoded("test"), [-1] * COUNT)
    write_parquet(folder / "validation-00000-of-00001.parquet", encoded("test")[:5], [0, 1, 2, 0, 1])
    assert load_test(config(folder)).labels_N.tolist() == [0, 1, 2, 0, 1]
    write_parquet(folder / "test-00000-of-00001.parquet", encoded("test"), [0] * COUNT, label="secret")
    assert load_test(config(folder)).labels_N.tolist() == [0, 1, 2, 0, 1]


# Damage


def test_a_bad_row_is_named_counted_and_left_out(folder: Path, caplog: pytest.LogCaptureFixture):
    images = encoded("test")
    images[3], images[7] = (images[3] or b"")[:100], None
    file = folder / "test-00000-of-00001.parquet"
    write_parquet(file, images, [i % 3 for i in range(COUNT)])
    with pytest.raises(ConfigError, match=r"^data\.max_bad: 1 is not enough, 2 or more images of test"):
        load_test(config(folder, max_bad=1))
    with caplog.at_level(logging.WARNING):
        test = load_test(config(folder, max_bad=2))
    np.testing.assert_array_equal(test.labels_N, np.delete(np.arange(COUNT) % 3, [3, 7]))
    assert f"skipped {file.resolve()}: row 7: there are no bytes of it in the shard" in caplog.messages
    assert any(message.startswith(f"skipped {file.resolve()}: row 3: ") for message in caplog.messages)
    assert caplog.messages[-1] == "skipped 2 of 24 test images in all"


def test_a_row_group_that_cannot_be_read_counts_with_each_of_its_images(folder: Path):
    parquet = importlib.import_module("pyarrow.parquet")
    file = folder / "train-00000-of-00002.parquet"
    column = parquet.ParquetFile(file).metadata.row_group(1).column(0)
    content = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"row group 1 cannot be read"):
        load_data(config(folder))
    data = load_data(config(folder, max_bad=4))
    assert data.bad == 4
    assert len(data.train) + len(data.val) == COUNT - 4
    streamed = load_data(config(folder, max_bad=4, cache_budget_gb=1e-9))
    assert all_images(streamed.train).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None])
def test_a_damaged_shard_is_an_error_that_names_it(folder: Path, content: bytes | None):
    file = folder / "train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ConfigError, match=r"train-00001-of-00002\.parquet is damaged: "):
        load_data(config(folder))


def test_a_missing_shard_is_named(folder: Path):
    (folder / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(ConfigError, match="is incomplete, it lacks train-00000-of-00002"):
        check_data(config(folder))


def test_a_folder_without_shards_is_one_message_with_the_mend(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"holds no \*\.parquet files, not train") as raised:
        check_data(config(tmp_path))
    assert "train-00000-of-00001.parquet" in str(raised.value)


def test_without_pyarrow_the_message_names_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch):
    original = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"^data\.dataset: parquet needs the package pyarrow: pip install"):
        check_data(config(folder))
