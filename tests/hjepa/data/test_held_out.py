"""What is held out for evaluation is never learnt from: not in another layout, later, or by another set."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hjepa.checkpoint import load_checkpoint, save_checkpoint
from hjepa.config import RunConfig
from hjepa.data import Data, DataConfig, Split, check_data, load_data
from hjepa.data.items import Files
from hjepa.data.loaded import load_one, load_part
from hjepa.data.split import Held
from hjepa.run import build_run, check_run_data, pick_device
from hjepa.schema import ConfigError
from tests.hjepa.data.formats import (
    encoded_image,
    smooth_image,
    write_cifar10,
    write_image_folder,
    write_parquet,
    write_stl10,
)

Tiny = Callable[..., RunConfig]
OVER = {"cache_budget_gb": 1e-9, "num_workers": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images of each of 3 classes."""
    write_image_folder(tmp_path / "images" / "train")
    return tmp_path / "images"


def given(folder: Path, **changed: Any) -> dict[str, Any]:
    common = {"dataset": "imagefolder", "data_path": str(folder), "stored_size": 12, "num_workers": 1}
    return {**common, "cache_dir": str(folder.parent / "cache"), **changed}


def loaded(folder: Path, **changed: Any) -> Data:
    return load_data(DataConfig.model_validate(given(folder, **changed)))


def seen(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split.images(np.arange(len(split)))}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


# However they are kept


@pytest.mark.parametrize("sets", [1, 2])
def test_images_kept_decoded_and_streamed_are_split_alike_whatever_is_bad(folder: Path, sets: int):
    truncate(folder / "train" / "ant" / "04.JPEG")
    write_cifar10(folder.parent / "cifar")
    several = {
        "use_multi_dataset": True,
        "datasets": [
            {"name": "images", "dataset": "imagefolder", "path": str(folder)},
            {"name": "cifar10", "path": str(folder.parent / "cifar")},
        ],
    }
    changed = {"max_bad": 1, **(several if sets == 2 else {})}
    kept, streamed = loaded(folder, **changed), loaded(folder, **changed, **OVER)
    assert kept.held == streamed.held
    assert len(kept.train) + len(kept.val) < len(streamed.train) + len(streamed.val)
    for one, other in ((kept, streamed), (streamed, kept)):
        assert not seen(one.train) & seen(other.val)


def test_rows_kept_decoded_and_streamed_are_split_alike_whatever_is_bad(tmp_path: Path):
    images: list[bytes | None] = [encoded_image(i) for i in range(30)]
    images[7] = None
    write_parquet(tmp_path / "shards" / "train.parquet", images, [i % 3 for i in range(30)])
    changed = {"dataset": "parquet", "max_bad": 1}
    kept, streamed = (loaded(tmp_path / "shards", **changed, **more) for more in ({}, OVER))
    assert kept.held == streamed.held
    assert len(kept.train) + len(kept.val) == 29
    for one, other in ((kept, streamed), (streamed, kept)):
        assert not seen(one.train) & seen(other.val)


def test_a_cache_that_lacks_images_and_does_not_say_which_is_refused(folder: Path):
    truncate(folder / "train" / "ant" / "04.JPEG")
    loaded(folder, max_bad=1)
    (told,) = (folder.parent / "cache").glob("*.bad.txt")
    told.unlink()
    load_one.cache_clear()
    load_part.cache_clear()
    with pytest.raises(ConfigError, match=r"npy holds 59 of 60 images, and .*\.bad\.txt beside it does not"):
        loaded(folder, max_bad=1)


# Several sets of one folder


def listed(folder: Path, *classes: str) -> str:
    file = folder.parent / f"{'-'.join(classes)}.txt"
    file.write_text("".join(f"{name}\n" for name in classes))
    return str(file)


def two(folder: Path, second: Path, first_list: str | None, second_list: str | None) -> DataConfig:
    sets = [
        {"name": "one", "dataset": "imagefolder", "path": str(folder), "class_list": first_list},
        {"name": "two", "dataset": "imagefolder", "path": str(second), "class_list": second_list},
    ]
    return DataConfig.model_validate({**given(folder), "use_multi_dataset": True, "datasets": sets})


def test_sets_that_share_some_images_are_refused(folder: Path):
    some, linked = listed(folder, "ant", "bee"), folder.parent / "linked"
    linked.mkdir()
    for name in ("bee", "cow"):
        (linked / name).symlink_to(folder / "train" / name)
    for second, lists in ((folder, (some, None)), (folder / "train", (None, some)), (linked, (None, None))):
        with pytest.raises(ConfigError) as raised:
            check_data(two(folder, second, *lists))
        told = f"data.datasets: one and two both take {folder}/train/"
        assert str(raised.value).startswith(told), str(raised.value)


def test_sets_that_share_all_or_no_images_are_not(folder: Path):
    write_image_folder(folder.parent / "others", 2)
    some = listed(folder, "ant", "bee")
    for second, lists in ((folder, (some, some)), (folder.parent / "others", (some, None))):
        check_data(two(folder, second, *lists))
    same = load_data(two(folder, folder, some, some))
    assert not seen(same.train) & seen(same.val)


def test_the_digest_of_what_is_held_out_is_that_of_earlier_versions():
    """Checkpoints that they wrote hold it."""
    names = [f"n{number // 7}/{number}.JPEG" for number in range(10_000)]
    names[3] = "n0/\udce9.JPEG"  # of bytes that are no UTF-8
    held = Held.of(np.arange(10_000) % 3, np.arange(0, 10_000, 20), names)
    assert held == Held(10_000, 500, "f0252eb0932f5bcf")
    assert Held.of(np.arange(4), np.arange(1), ()).digest == "17fdd02dfc0350c4"
    assert list(Files(["/a/b/c.png", "b/c.png", "c.png"], np.zeros(3), 8).called()) == ["b/c.png"] * 2 + [
        "c.png"
    ]


def test_unlabelled_images_change_nothing_of_what_is_held_out(tmp_path: Path):
    write_stl10(tmp_path / "stl10_binary")
    sets = [{"name": "stl10"}, {"name": "more", "dataset": "stl10", "unlabeled": True}]
    changed = {"use_multi_dataset": True, "datasets": sets}
    config = DataConfig.model_validate({**given(tmp_path), **changed})
    check_data(config)
    data = load_data(config)
    assert not seen(data.train) & seen(data.val)


def test_a_probe_judged_by_some_of_the_runs_images_is_refused(tiny: Tiny, folder: Path):
    probe = {"enabled": True, "dataset": "imagefolder", "data_path": str(folder)}
    keys = {f"evaluation.linear_probe.{key}": value for key, value in probe.items()}
    run = tiny({**keys, "data.stored_size": 12})
    check_run_data(run)
    some = two(folder, folder, *[listed(folder, "ant", "bee")] * 2)
    told = (
        r"^evaluation\.linear_probe\.dataset: imagefolder and the run's one both take .*/train/ant, but not"
    )
    with pytest.raises(ConfigError, match=told):
        check_run_data(run.model_copy(update={"data": some}))


# Going on from a checkpoint


def run_of(tiny: Tiny, folder: Path, **changed: Any) -> RunConfig:
    data = given(folder, batch_size=10, **changed)
    return tiny({f"data.{key}": value for key, value in data.items()})


@pytest.fixture
def checkpoint(tiny: Tiny, folder: Path, tmp_path: Path) -> Path:
    build_run(run_of(tiny, folder)).save(tmp_path / "start.pt")
    return tmp_path / "start.pt"


def test_a_run_goes_on_with_its_images_moved_and_kept_otherwise(tiny: Tiny, folder: Path, checkpoint: Path):
    shutil.move(folder, folder.with_name("moved"))
    for changed in ({}, OVER):
        build_run(run_of(tiny, folder.with_name("moved"), **changed)).load(checkpoint)


def add(train: Path) -> None:
    smooth_image(999, 20, 24).save(train / "bee" / "999.png")


def remove(train: Path) -> None:
    (train / "bee" / "01.JPEG").unlink()


def rename(train: Path) -> None:
    (train / "bee").rename(train / "beetle")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (add, "of imagefolder it was 30 of 60 images, is 30 of 61"),
        (remove, "of imagefolder it was 30 of 60 images, is 30 of 59"),
        (rename, "of imagefolder there are as many images, but others"),
    ],
)
def test_a_run_does_not_go_on_with_images_split_otherwise(
    tiny: Tiny, folder: Path, checkpoint: Path, change: Callable[[Path], None], told: str
):
    change(folder / "train")
    run = build_run(run_of(tiny, folder))
    with pytest.raises(ConfigError) as raised:
        run.load(checkpoint)
    assert str(raised.value).startswith(f"{checkpoint}: its run held out other images: {told}. ")


def test_a_run_does_not_go_on_with_another_data_set(tiny: Tiny, checkpoint: Path):
    with pytest.raises(ConfigError, match=r"held out other images: digits was not learnt from"):
        build_run(tiny()).load(checkpoint)


def test_a_checkpoint_that_does_not_tell_what_was_held_out_is_gone_on_from(
    tiny: Tiny, folder: Path, checkpoint: Path
):
    state = load_checkpoint(checkpoint, pick_device("cpu"))
    del state["held"]
    save_checkpoint(checkpoint, state)
    add(folder / "train")
    build_run(run_of(tiny, folder)).load(checkpoint)
