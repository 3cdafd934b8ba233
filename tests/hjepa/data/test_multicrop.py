"""Global and local crops: their sizes, their number, and where the one lies in the other."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hjepa.data import Augmentation, AugmentationConfig, LocalCrops, Multicrop, MulticropConfig
from hjepa.data.augmentation import resample
from hjepa.data.multicrop import AdaptiveConfig, patch_places

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
WHOLE = [0.0, 0.0, 1.0, 1.0]
MIRRORED = [1.0, 0.0, 0.0, 1.0]
QUARTER = [0.5, 0.5, 1.0, 1.0]
MIRRORED_QUARTER = [1.0, 0.5, 0.5, 1.0]


def build(
    config: MulticropConfig | None = None, augmentation: AugmentationConfig | None = None, size: int = 16
) -> Multicrop:
    return Multicrop(config or MulticropConfig(), augmentation or AugmentationConfig(), size, 2, MEAN, STD)


def random_images(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 12, 12), generator=generator, dtype=torch.uint8)


def places(local: list[float], grid: int, frame: list[float], frame_grid: int) -> Tensor:
    box, view = torch.tensor(local).view(1, 1, 4), torch.tensor(frame).view(1, 1, 4)
    return patch_places(box, grid, view, frame_grid)[0].view(grid, grid, 2)


# Crops


def test_crops_have_their_numbers_and_sizes():
    crops = build(MulticropConfig(num_global_crops=3, local_crop_size=6))
    views, boxes = crops.global_views(random_images())
    assert views.shape == (15, 3, 16, 16)
    assert boxes.shape == (5, 3, 4)
    local = crops.local_views(random_images(), 4, boxes)
    assert local.images_BVCHW.shape == (5, 4, 3, 6, 6)
    assert local.places_SP2 is not None
    assert local.places_SP2.shape == (15, 4 * 3 * 3, 2)
    assert crops.local_views(random_images(), 4).places_SP2 is None


def test_the_crops_of_an_image_stand_one_after_another():
    greys = torch.tensor([0, 100, 200], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 12, 12)
    crops = build()
    normal = crops.global_view
    views, _ = crops.global_views(greys)
    values = (views * normal.std_C11 + normal.mean_C11) * 255
    expected = torch.tensor([0.0, 0, 100, 100, 200, 200]).view(6, 1, 1, 1)
    torch.testing.assert_close(values, expected.expand_as(values), rtol=0, atol=1e-2)
    local = crops.local_views(greys, 2)
    values = (local.images_BVCHW * normal.std_C11 + normal.mean_C11) * 255
    torch.testing.assert_close(values.mean((2, 3, 4)), expected.view(3, 2), rtol=0, atol=1e-2)


def test_one_global_crop_is_what_the_augmentation_alone_would_make_to_the_bit():
    changed = AugmentationConfig(crop_scale=(0.4, 1.0), horizontal_flip=True, color_jitter=0.3)
    torch.manual_seed(3)
    expected = Augmentation(changed, 16, MEAN, STD)(random_images())
    torch.manual_seed(3)
    views, _ = build(MulticropConfig(num_global_crops=1), changed).global_views(random_images())
    assert torch.equal(views, expected)


def test_boxes_keep_to_the_areas_of_their_kind():
    crops = build(MulticropConfig(global_crop_scale=(0.5, 0.9), local_crop_scale=(0.1, 0.3)))
    images = random_images(1).expand(300, 3, 12, 12)
    torch.manual_seed(0)
    _, frame = crops.global_views(images)
    area = (frame[..., 2] - frame[..., 0]) * (frame[..., 3] - frame[..., 1])
    assert 0.5 - 1e-5 <= area.min() < 0.52
    assert 0.88 < area.max() <= 0.9 + 1e-5
    local = crops.local_views(images, 1, torch.tensor(WHOLE).expand(300, 1, 4))
    assert local.places_SP2 is not None
    # In the frame of the whole image, of 8 x 8 patches, from the first to the last of 3 x 3 patches.
    spread = local.places_SP2.view(300, 3, 3, 2)
    share = (spread[:, -1, -1] - spread[:, 0, 0]).prod(-1) / 2**2 * 3**2 / 8**2
    assert 0.1 - 1e-5 <= share.min() < 0.12
    assert 0.28 < share.max() <= 0.3 + 1e-5


@pytest.mark.parametrize(("own", "expected"), [(None, (0.4, 0.4)), (0.0, (0.0, 0.2)), (1.0, (1.0, 0.2))])
def test_jitter_is_the_augmentations_unless_given(own: float | None, expected: tuple[float, float]):
    local = None if own is None else 0.2
    config = MulticropConfig(global_color_jitter=own, local_color_jitter=local)
    crops = build(config, AugmentationConfig(color_jitter=0.4))
    assert (crops.global_view.config.color_jitter, crops.local_view.config.color_jitter) == expected


# Places


def test_a_quarter_of_the_frame_lies_on_the_frames_own_patches():
    rows, columns = places(QUARTER, 4, WHOLE, 8).unbind(-1)
    wanted = torch.arange(4.0, 8.0)
    torch.testing.assert_close(rows, wanted[:, None].expand(4, 4))
    torch.testing.assert_close(columns, wanted.expand(4, 4))


def test_a_quarter_in_half_as_many_patches_lies_between_them():
    rows, columns = places(QUARTER, 2, WHOLE, 8).unbind(-1)
    torch.testing.assert_close(rows, torch.tensor([[4.5, 4.5], [6.5, 6.5]]))
    torch.testing.assert_close(columns, torch.tensor([[4.5, 6.5], [4.5, 6.5]]))


@pytest.mark.parametrize(
    ("local", "frame", "columns"),
    [
        (MIRRORED_QUARTER, WHOLE, [7.0, 6.0, 5.0, 4.0]),
        (QUARTER, MIRRORED, [3.0, 2.0, 1.0, 0.0]),
        (MIRRORED_QUARTER, MIRRORED, [0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_mirroring_turns_columns_and_no_row(local: list[float], frame: list[float], columns: list[float]):
    found = places(local, 4, frame, 8)
    torch.testing.assert_close(found[0, :, 1], torch.tensor(columns))
    torch.testing.assert_close(found[:, 0, 0], torch.arange(4.0, 8.0))


def test_what_the_frame_does_not_show_lies_outside_its_grid():
    found = places(WHOLE, 4, QUARTER, 4)
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([-3.5, -1.5, 0.5, 2.5]))


def test_places_come_frame_by_frame_and_crop_by_crop():
    box = torch.tensor([[QUARTER, WHOLE], [WHOLE, QUARTER]])
    frame = torch.tensor([[WHOLE, MIRRORED, QUARTER], [MIRRORED, QUARTER, WHOLE]])
    found = patch_places(box, 2, frame, 8).view(2, 3, 2, 2, 2, 2)
    for image, view, crop in product(range(2), range(3), range(2)):
        alone = places(box[image, crop].tolist(), 2, frame[image, view].tolist(), 8)
        torch.testing.assert_close(found[image, view, crop], alone)


def test_a_place_is_where_the_global_crop_shows_the_same():
    # On a ramp, a patch's mean is its middle's place in the image, in crops of either kind.
    steps = (torch.arange(64) + 0.5) / 64 * 255
    ramps = torch.stack([steps.expand(64, 64), steps[:, None].expand(64, 64), torch.zeros(64, 64)])
    crops = build(MulticropConfig(local_crop_size=8), AugmentationConfig(horizontal_flip=True))
    torch.manual_seed(0)
    stored = ramps.round().to(torch.uint8).expand(40, 3, 64, 64)
    views, boxes = crops.global_views(stored)
    local = crops.local_views(stored, 3, boxes)
    assert local.places_SP2 is not None

    def patch_means(images: Tensor) -> Tensor:
        pixels = images * crops.local_view.std_C11 + crops.local_view.mean_C11
        return torch.nn.functional.avg_pool2d(pixels[:, :2], 2)

    found = patch_means(local.images_BVCHW.flatten(0, 1)).view(40, 1, 3, 2, 4, 4)
    shown = patch_means(views).view(40, 2, 2, 8, 8)
    row, column = local.places_SP2.view(40, 2, 3, 4, 4, 2).unbind(-1)
    # Lines through inner patches, for at its border an image's resampling is one-sided.
    across = (shown[:, :, 0, 4, 5] - shown[:, :, 0, 4, 2]) / 3
    down = (shown[:, :, 1, 5, 4] - shown[:, :, 1, 2, 4]) / 3
    x = shown[:, :, 0, 4, 2, None, None, None] + (column - 2) * across[..., None, None, None]
    y = shown[:, :, 1, 2, 4, None, None, None] + (row - 2) * down[..., None, None, None]
    assert (x - found[:, :, :, 0]).abs().max() < 0.02
    assert (y - found[:, :, :, 1]).abs().max() < 0.02


def test_resample_mirrors_a_box_whose_left_is_right_of_its_right():
    image = random_images(1).float()
    found = resample(image, torch.tensor([MIRRORED_QUARTER]), 4)
    torch.testing.assert_close(found, resample(image, torch.tensor([QUARTER]), 4).flip(-1))


# Numbers and sizes


def test_local_crops_grow_linearly_in_number():
    rise = AdaptiveConfig(min_local_crops=2, max_local_crops=10, warmup_epochs=30)
    assert [rise.local_crops(epoch) for epoch in (0, 3, 4, 15, 29, 30, 99)] == [2, 2, 3, 6, 9, 10, 10]
    assert MulticropConfig(adaptive=True, adaptive_config=rise).local_crops(15) == 6
    assert MulticropConfig(adaptive_config=rise).local_crops(15) == 6  # num_local_crops
    assert AdaptiveConfig(max_local_crops=5, warmup_epochs=0).local_crops(0) == 5


@given(low=st.integers(0, 8), rise=st.integers(0, 8), epochs=st.integers(0, 20))
def test_the_number_never_falls_and_ends_at_the_most(low: int, rise: int, epochs: int):
    config = AdaptiveConfig(min_local_crops=low, max_local_crops=low + rise, warmup_epochs=epochs)
    numbers = [config.local_crops(epoch) for epoch in range(25)]
    assert numbers == sorted(numbers)
    assert numbers[0] == (low if epochs else low + rise)
    assert numbers[epochs] == low + rise


@pytest.mark.parametrize(
    ("image", "patch", "side"), [(224, 16, 96), (224, 14, 98), (16, 4, 8), (32, 4, 12), (8, 2, 4), (8, 8, 8)]
)
def test_a_local_crop_is_3_7_of_the_image_in_whole_patches(image: int, patch: int, side: int):
    assert MulticropConfig().local_side(image, patch) == side
    MulticropConfig().require_fit(image, patch)


def test_96_of_224_pixels_in_patches_of_16_is_accepted():
    MulticropConfig(local_crop_size=96, global_crop_size=224).require_fit(224, 16)


def test_parts_hold_whole_images():
    local = LocalCrops(torch.arange(12.0).view(4, 3, 1, 1, 1), torch.arange(8.0).view(8, 1, 1), True)
    first, second = local.split([2, 2])
    assert first.images_BVCHW.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert second.places_SP2 is not None
    assert second.places_SP2.flatten().tolist() == [4, 5, 6, 7]
    assert first.alone
    assert second.alone
    assert LocalCrops(local.images_BVCHW).split([2, 2])[1].places_SP2 is None
