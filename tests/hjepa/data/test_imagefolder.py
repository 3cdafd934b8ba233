"""Folders of class folders: any, ImageNet's and its subsets."""

import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional

from hjepa.data import DataConfig, Split, check_data, decode, load_data, load_test
from hjepa.data.decode import Skipped, decode_square, decoding_threads, resized
from hjepa.data.loaded import load_one, load_part
from hjepa.schema import ConfigError, inert_reason

CLASSES = ("ant", "bee", "cow")
COUNTS = {"train": 20, "val": 4, "test": 5}
SIDE = 12


def all_images(split: Split) -> np.ndarray:
    return split.images(np.arange(len(split)))


def smooth_image(seed: int, width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_classes(folder: Path, count: int, classes: tuple[str, ...] = CLASSES) -> None:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            suffix = (".png", ".JPEG", ".jpg")[i % 3]
            smooth_image(100 * label + i, 18 + i, 24).save(folder / name / f"{i:02}{suffix}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, count in COUNTS.items():
        write_classes(tmp_path / "images" / part, count)
    return tmp_path / "images"


def config(folder: Path, **changed: Any) -> DataConfig:
    given = {"dataset": "imagefolder", "data_path": str(folder), "stored_size": SIDE}
    return DataConfig.model_validate({**given, "cache_dir": str(folder.parent / "cache"), **changed})


def truncate(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[:-200])
    return file


# Layout


def test_each_class_folder_is_a_class_in_the_order_of_names(folder: Path):
    data, test = load_data(config(folder)), load_test(config(folder))
    assert data.num_classes == 3
    np.testing.assert_array_equal(np.bincount([*data.train.labels_N, *data.val.labels_N]), [20, 20, 20])
    np.testing.assert_array_equal(test.labels_N, np.repeat([0, 1, 2], COUNTS["test"]))
    for name, image in zip(("00.png", "01.JPEG"), all_images(test), strict=False):
        np.testing.assert_array_equal(image, decode_square(folder / "test" / "ant" / name, SIDE))


def test_val_is_the_test_set_where_there_is_no_test_or_a_flat_one(folder: Path):
    shutil.rmtree(folder / "test")
    (folder / "test").mkdir()
    (folder / "test" / "1.png").touch()
    assert len(load_test(config(folder))) == 3 * COUNTS["val"]


def test_a_folder_without_train_is_a_training_set_without_a_test_set(folder: Path):
    data = load_data(config(folder / "train"))
    assert len(data.train) + len(data.val) == 60
    with pytest.raises(ConfigError, match=r"^data\.data_path: no folder of test images beside"):
        load_test(config(folder / "train"))


def test_test_images_have_the_labels_of_the_training_folders(folder: Path):
    shutil.rmtree(folder / "test" / "ant")
    assert set(load_test(config(folder)).labels_N) == {1, 2}


def test_a_class_list_takes_those_classes_of_train_and_test(folder: Path, tmp_path: Path):
    (tmp_path / "list.txt").write_text("# a comment\ncow  a large animal\n\nant\n")
    chosen = config(folder, class_list=str(tmp_path / "list.txt"))
    data, test = load_data(chosen), load_test(chosen)
    assert data.num_classes == 2
    assert len(data.train) + len(data.val) == 40
    np.testing.assert_array_equal(test.labels_N, np.repeat([0, 1], COUNTS["test"]))
    np.testing.assert_array_equal(
        all_images(test)[5], decode_square(folder / "test" / "cow" / "00.png", SIDE)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ant\nbeee\n", r"list names beee, which is no folder of .*/train\. Nearest: bee"),
        (b"ant\nant\n", "names ant twice"),
        (b"ant\n", "1 class folders of .*, not 2 or more"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_class_list_that_does_not_fit_is_one_message(
    folder: Path, tmp_path: Path, content: bytes | None, message: str
):
    if content is not None:
        (tmp_path / "list").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^data\.class_list: .*{message}"):
        check_data(config(folder, class_list=str(tmp_path / "list")))


@pytest.mark.parametrize(
    ("path", "message"),
    [(None, "null is not allowed"), ("no", "does not exist"), (".", "1 class folders")],
)
def test_folders_that_are_not_there_are_one_message_with_the_mend(
    tmp_path: Path, path: str | None, message: str
):
    (tmp_path / "only").mkdir()
    with pytest.raises(ConfigError, match=rf"^data\.data_path: .*{message}") as raised:
        check_data(config(tmp_path, data_path=path and str(tmp_path / path)))
    assert "train/CLASS/*.jpg" in str(raised.value)


def test_a_class_folder_without_images_is_named(folder: Path):
    (folder / "train" / "dog").mkdir()
    (folder / "train" / "dog" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"class folder .*/train/dog holds no images"):
        load_data(config(folder))


def test_checking_data_writes_nothing(folder: Path):
    check_data(config(folder))
    assert not (folder.parent / "cache").exists()


# ImageNet


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of each of a thousand classes, in train and val."""
    root = tmp_path_factory.mktemp("imagenet") / "images"
    smooth_image(0, 6, 6).save(root.parent / "image.png")
    content = (root.parent / "image.png").read_bytes()
    for i in range(1000):
        for part in ("train", "val"):
            (root / part / f"n{i:08}").mkdir(parents=True)
            (root / part / f"n{i:08}" / "image.png").write_bytes(content)
    return root


def test_imagenet_has_a_thousand_classes(imagenet: Path):
    data = load_data(config(imagenet, dataset="imagenet", stored_size=4))
    assert data.num_classes == 1000
    np.testing.assert_array_equal(data.train.labels_N, np.arange(1000))
    test = load_test(config(imagenet, dataset="imagenet", stored_size=4))
    np.testing.assert_array_equal(test.labels_N, np.arange(1000))


def test_imagenet100_is_the_hundred_classes_of_a_list(imagenet: Path, tmp_path: Path):
    (tmp_path / "list").write_text("\n".join(f"n{i:08}" for i in range(0, 1000, 10)))
    chosen = config(imagenet, dataset="imagenet100", stored_size=4, class_list=str(tmp_path / "list"))
    assert load_data(chosen).num_classes == 100
    (tmp_path / "list").write_text("n00000000\nn00000001\n")
    with pytest.raises(ConfigError, match=r"list names 2 classes, imagenet100 has 100"):
        check_data(chosen)
    check_data(chosen.model_copy(update={"dataset": "imagenet"}))


def test_an_imagenet_that_lacks_classes_is_refused(folder: Path):
    with pytest.raises(ConfigError, match="train holds 3 class folders, imagenet has 1,000"):
        check_data(config(folder, dataset="imagenet"))


def test_imagenet100_needs_a_class_list_unless_its_folder_holds_just_a_hundred(
    imagenet: Path, tmp_path: Path
):
    with pytest.raises(ConfigError, match=r"^data\.class_list: null is not allowed: .* holds 1000 class"):
        check_data(config(imagenet, dataset="imagenet100"))
    for name in sorted(os.listdir(imagenet / "train"))[:100]:
        (tmp_path / "hundred" / "train" / name).mkdir(parents=True)
    check_data(config(tmp_path / "hundred", dataset="imagenet100"))


def test_imagenet_may_lie_in_a_folder_of_that_name(imagenet: Path, tmp_path: Path):
    (tmp_path / "imagenet").symlink_to(imagenet)
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert load_data(config(tmp_path, dataset="imagenet", stored_size=4)).num_classes == 1000


# Decoding


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 50), (12, 12), (8, 6)])
def test_the_stored_image_is_the_square_in_the_middle_resized(tmp_path: Path, width: int, height: int):
    image = smooth_image(0, width, height)
    image.save(tmp_path / "image.png")
    tensor_CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    square_CSS = functional.center_crop(tensor_CHW, [min(width, height)])
    expected_CSS = functional.resize(square_CSS.float(), [12], antialias=True).numpy()
    found_CSS = decode_square(tmp_path / "image.png", 12)
    assert found_CSS.shape == (3, 12, 12)
    assert np.abs(found_CSS - expected_CSS).max() <= 1.01


def test_a_resized_square_is_pillows_to_within_one_level():
    square = smooth_image(0, 375, 375)
    expected_SSC = np.asarray(square.resize((256, 256), Image.Resampling.BILINEAR), np.int64)
    found_CSS = resized(np.array(square), 256)
    assert np.abs(found_CSS - expected_SSC.transpose(2, 0, 1)).max() <= 1


def test_threads_that_decode_leave_torchs_number_of_threads_alone():
    before = torch.get_num_threads()
    with decoding_threads(3) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(9))) == [1] * 9
        assert torch.get_num_threads() == before
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == before
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_pixel_mode_becomes_rgb(tmp_path: Path, mode: str):
    file = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image = smooth_image(0, 12, 12)
    image.convert(mode).save(file)
    expected = image.convert(mode).convert("RGB")
    error = np.abs(decode_square(file, 12) - np.asarray(expected, np.int64).transpose(2, 0, 1))
    assert error.mean() < (5 if mode == "CMYK" else 1)


def test_a_palette_with_transparency_is_decoded_without_a_warning(tmp_path: Path):
    smooth_image(0, 12, 12).convert("P").save(tmp_path / "image.png", transparency=bytes(range(256)))
    assert decode_square(tmp_path / "image.png", 12).shape == (3, 12, 12)


def test_pixels_count_as_they_lie_in_the_file(tmp_path: Path):
    plain, other = smooth_image(0, 30, 24), smooth_image(1, 30, 24)
    turned = Image.Exif()
    turned[0x0112] = 6
    plain.save(tmp_path / "plain.jpg")
    plain.save(tmp_path / "turned.jpg", exif=turned)
    plain.save(tmp_path / "plain.png")
    plain.save(tmp_path / "moving.png", save_all=True, append_images=[other])
    clear = plain.copy()
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    for name, alike in (("turned.jpg", "plain.jpg"), ("moving.png", "plain.png"), ("clear.png", "plain.png")):
        found, expected = (decode_square(tmp_path / file, SIDE) for file in (name, alike))
        np.testing.assert_array_equal(found, expected)


def test_a_large_jpeg_decoded_small_is_close_to_one_decoded_whole(tmp_path: Path):
    image = smooth_image(0, 640, 480)
    image.save(tmp_path / "image.jpg", quality=95)
    image.save(tmp_path / "image.png")
    small, whole = (decode_square(tmp_path / f"image.{kind}", 32) for kind in ("jpg", "png"))
    assert np.abs(small.astype(int) - whole).mean() < 2


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("width", "height"), [(50, 40), (64, 48), (101, 67), (640, 481)])
def test_a_jpegs_pixels_are_pillows(tmp_path: Path, mode: str, width: int, height: int):
    """Smaller ones as they are, larger ones decoded at a fraction."""
    file = tmp_path / "image.jpg"
    smooth_image(0, width, height).convert(mode).save(file, progressive=width % 2 == 1)
    with Image.open(file) as image:
        expected = np.asarray(decode._rgb(image, 24), np.int64)
    found = decode._plain_jpeg(file.read_bytes(), 24)
    assert found is not None
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("damage", [lambda jpeg: jpeg[:-200], lambda jpeg: jpeg[:40], lambda jpeg: b""])
def test_a_damaged_jpeg_is_what_pillow_says_it_is(tmp_path: Path, damage: Callable[[bytes], bytes]):
    smooth_image(0, 64, 48).save(tmp_path / "whole.jpg")
    part = damage((tmp_path / "whole.jpg").read_bytes())
    with pytest.raises(OSError, match=r"[Tt]runcated|no image of a known kind"):
        decode_square(part, 12)


def test_the_default_stored_size_is_8_7_of_the_image_size(folder: Path):
    default = config(folder, stored_size=None, image_size=14)
    assert load_data(default).train.stored_MCHW.shape[1:] == (3, 16, 16)
    assert config(folder, stored_size=None, image_size=224).stored_side == 256


def test_the_number_of_threads_changes_no_image(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decode, "_CHUNK_IMAGES", 7)
    for count in (1, 4):
        load_part.cache_clear()
        load_test(config(folder, num_workers=count, cache_dir=str(tmp_path / f"{count}")))
    one, four = (next((tmp_path / name).iterdir()).read_bytes() for name in ("1", "4"))
    assert one == four


def test_a_replaced_image_is_decoded_again(folder: Path, tmp_path: Path):
    before = all_images(load_test(config(folder)))[0]
    smooth_image(999, 20, 20).save(tmp_path / "new.png")
    (tmp_path / "new.png").replace(folder / "test" / "ant" / "00.png")
    assert (all_images(load_test(config(folder)))[0] != before).any()


def test_long_decoding_tells_how_far_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    load_test(config(folder))
    assert not caplog.messages
    monkeypatch.setattr(decode, "PROGRESS_S", 0.0)
    monkeypatch.setattr(decode, "_CHUNK_IMAGES", 30)
    load_data(config(folder))
    assert [message.split(" images")[0] for message in caplog.messages] == [
        "decoded 30 of 60 train",
        "decoded 60 of 60 train",
    ]


# Bad images


def test_a_bad_image_is_an_error_that_names_it(folder: Path):
    file = truncate(folder / "train" / "bee" / "01.JPEG")
    with pytest.raises(ConfigError, match=r"^data\.max_bad: 0 is not enough, 1 or more") as raised:
        load_data(config(folder))
    assert f"{file}: " in str(raised.value)
    assert "truncated" in str(raised.value).lower()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_bad_images_within_max_bad_are_named_counted_and_left_out(
    folder: Path, content: bytes, caplog: pytest.LogCaptureFixture
):
    whole = all_images(load_test(config(folder)))
    bad = folder / "test" / "ant" / "02.jpg"
    bad.unlink()
    bad.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        test = load_test(config(folder, max_bad=1))
    np.testing.assert_array_equal(all_images(test), np.delete(whole, 2, axis=0))
    np.testing.assert_array_equal(test.labels_N, np.repeat([0, 1, 2], [4, 5, 5]))
    assert str(bad) in caplog.messages[0]
    assert caplog.messages[-1] == "skipped 1 of 15 test images in all"


def test_one_bad_image_more_than_max_bad_ends_it(folder: Path):
    for name in ("00.png", "01.JPEG", "02.jpg"):
        truncate(folder / "train" / "cow" / name)
    with pytest.raises(ConfigError, match=r"^data\.max_bad: 2 is not enough, 3 or more") as raised:
        load_data(config(folder, max_bad=2))
    assert str(folder / "train" / "cow" / "00.png") in str(raised.value)
    load_data(config(folder, max_bad=3))


def test_max_bad_is_asked_of_a_cache_that_was_made_with_a_higher_one(folder: Path):
    file = truncate(folder / "test" / "bee" / "01.JPEG")
    load_test(config(folder, max_bad=1))
    for forget in (lambda: None, load_part.cache_clear):
        forget()
        with pytest.raises(ConfigError, match=r"^data\.max_bad: 0 is not enough") as raised:
            load_test(config(folder, max_bad=0))
        assert f"{file}: " in str(raised.value)
    assert len(load_test(config(folder, max_bad=1))) == 14


@pytest.mark.parametrize(
    "name",
    ["a\tb.png", "a\nb.png", "a\u2028b.png", os.fsdecode(b"\xff.png")],
    ids=["tab", "line", "separator", "bytes"],
)
def test_a_bad_image_may_have_any_name(folder: Path, name: str, caplog: pytest.LogCaptureFixture):
    (folder / "train" / "ant" / name).write_bytes(b"")
    for _ in range(2):  # decoded, and from the cache
        load_part.cache_clear()
        load_one.cache_clear()
        data = load_data(config(folder, max_bad=1))
        assert (data.bad, len(data.train) + len(data.val)) == (1, 60)
    assert caplog.messages
    assert all(message.isprintable() for message in caplog.messages)


def test_what_earlier_versions_wrote_of_bad_images_is_read(tmp_path: Path):
    (tmp_path / "bad.txt").write_text("/a b/é.png\tit is no image\n/2.png\t\n", encoding="utf-8")
    skipped = Skipped(2, "train")
    skipped.load(tmp_path / "bad.txt")
    assert skipped.problems == {"/a b/é.png": "it is no image", "/2.png": ""}


def test_bad_images_alone_are_no_data_set(folder: Path):
    for file in (folder / "test").rglob("*.*"):
        file.write_bytes(b"")
    with pytest.raises(ConfigError, match="none of the 15 test images can be decoded"):
        load_test(config(folder, max_bad=100))


def test_pixels_of_16_bits_are_refused_rather_than_cut_off(folder: Path):
    deep = Image.fromarray(np.full((20, 20), 40_000, np.uint16))
    deep.save(folder / "train" / "ant" / "00.png")
    with pytest.raises(ConfigError, match=r"ant/00\.png: pixels of more than 8 bits"):
        load_data(config(folder))


@given(position=st.integers(0, 400), byte=st.integers(0, 255))
def test_no_damage_to_a_file_does_worse_than_a_named_image(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
):
    root = tmp_path_factory.mktemp("damage")
    write_classes(root / "images", 2, CLASSES[:2])
    file = root / "images" / "ant" / "01.JPEG"
    content = bytearray(file.read_bytes())
    content[position] = byte
    file.write_bytes(content)
    data = load_data(config(root / "images", max_bad=1, val_fraction=0.5))
    assert len(data.train) + len(data.val) in (3, 4)


# Config


def test_keys_of_image_folders_are_inert_elsewhere(folder: Path):
    reasons = {
        "class_list": "digits is no folder of images",
        "cache_budget_gb": "digits is always cached",
        **dict.fromkeys(("stored_size", "num_workers", "max_bad"), "digits has no image files"),
    }
    for key, reason in reasons.items():
        assert inert_reason(config(folder), key) is None
        assert inert_reason(DataConfig(), key) == reason
