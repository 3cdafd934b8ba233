"""Augmentation on the device, and plain resizing."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hjepa.data import Augmentation, AugmentationConfig
from hjepa.data.augmentation import MAX_ASPECT, random_boxes, resample

ALL = AugmentationConfig(horizontal_flip=True, color_jitter=0.4)
OFF = AugmentationConfig(random_crop=False)


def build(config: AugmentationConfig, size: int = 16) -> Augmentation:
    return Augmentation(config, size, mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.3])


def random_images(count: int = 8, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def unnormalised(augmentation: Augmentation, images: Tensor) -> Tensor:
    return images * augmentation.std_C11 + augmentation.mean_C11


@pytest.mark.parametrize("config", [ALL, OFF, AugmentationConfig(), AugmentationConfig(color_jitter=1.0)])
@pytest.mark.parametrize("stored_size", [8, 16, 32])
def test_output_is_float32_at_the_size_the_model_sees(config: AugmentationConfig, stored_size: int):
    augmentation = build(config)
    images = random_images(size=stored_size)
    for output in (augmentation(images), augmentation.plain(images)):
        assert output.shape == (8, 3, 16, 16)
        assert output.dtype == torch.float32
        assert output.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        AugmentationConfig(),
        AugmentationConfig(random_crop=False, horizontal_flip=0.5),
        AugmentationConfig(random_crop=False, color_jitter=0.5),
    ],
)
def test_copies_of_an_image_within_a_batch_are_augmented_differently(config: AugmentationConfig):
    torch.manual_seed(0)
    output = build(config)(random_images(1).expand(16, 3, 8, 8))
    assert (output != output[:1]).any()


def test_equal_seeds_give_equal_output():
    augmentation, images = build(ALL), random_images()
    torch.manual_seed(3)
    first = augmentation(images)
    torch.manual_seed(3)
    torch.testing.assert_close(augmentation(images), first, rtol=0, atol=0)
    assert (augmentation(images) != first).any()


def test_everything_off_is_plain():
    images = random_images()
    augmentation = build(OFF)
    torch.testing.assert_close(augmentation(images), augmentation.plain(images))


def test_cropping_the_whole_image_is_plain():
    images = random_images(size=32)
    augmentation = build(AugmentationConfig(crop_scale=(1.0, 1.0)))
    torch.testing.assert_close(augmentation(images), augmentation.plain(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stored_size", [8, 15, 16, 32, 37])
def test_plain_resizes_as_torch_does(stored_size: int):
    images = random_images(size=stored_size)
    augmentation = build(OFF)
    expected = F.interpolate(images.float() / 255, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(
        unnormalised(augmentation, augmentation.plain(images)), expected, rtol=0, atol=1e-5
    )


def test_plain_keeps_a_constant_image_constant():
    images = torch.full((2, 3, 9, 9), 51, dtype=torch.uint8)
    augmentation = build(OFF)
    output = unnormalised(augmentation, augmentation.plain(images))
    torch.testing.assert_close(output, torch.full_like(output, 0.2))


def test_plain_draws_no_random_number():
    before = torch.get_rng_state()
    build(ALL).plain(random_images())
    assert torch.equal(torch.get_rng_state(), before)


def test_flipping_always_mirrors():
    augmentation = build(AugmentationConfig(random_crop=False, horizontal_flip=1.0))
    images = random_images()
    torch.testing.assert_close(augmentation(images), augmentation.plain(images).flip(-1))


def test_about_half_are_flipped_at_true():
    torch.manual_seed(0)
    left, _, right, _ = random_boxes(
        4000, AugmentationConfig(random_crop=False, horizontal_flip=True)
    ).unbind(1)
    assert (left > right).float().mean().item() == pytest.approx(0.5, abs=0.03)


@given(bounds=st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(sorted))
def test_boxes_keep_to_the_range_of_areas_and_to_the_image(bounds: list[float]):
    config = AugmentationConfig(crop_scale=(bounds[0], bounds[1]))
    left, top, right, bottom = random_boxes(200, config).unbind(1)
    width, height = right - left, bottom - top
    assert torch.stack([left, top]).min() >= 0
    assert torch.stack([right, bottom]).max() <= 1 + 1e-6
    assert (width * height).min() >= bounds[0] - 1e-5
    assert (width * height).max() <= bounds[1] + 1e-5
    assert (width / height).log().abs().max().exp() <= MAX_ASPECT + 1e-4


def test_a_crop_shows_the_box_that_was_drawn():
    # On a ramp, a pixel's value is its place: the output must be linear between the box's edges.
    ramp = ((torch.arange(16) + 0.5) / 16).expand(1, 1, 16, 16)
    box = torch.tensor([[0.25, 0.125, 0.75, 0.875]])
    steps = (torch.arange(16) + 0.5) / 16
    across = resample(ramp, box, 16)[0, 0]
    torch.testing.assert_close(across, (0.25 + 0.5 * steps).expand(16, 16))
    down = resample(ramp.mT, box, 16)[0, 0]
    torch.testing.assert_close(down, (0.125 + 0.75 * steps)[:, None].expand(16, 16))


def test_autocast_does_not_coarsen_the_images():
    augmentation, images = build(AugmentationConfig()), random_images()
    torch.manual_seed(0)
    expected = augmentation(images)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = augmentation(images)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)


def test_jitter_of_strength_s_scales_grey_brightness_by_at_most_s():
    augmentation = build(AugmentationConfig(random_crop=False, color_jitter=0.2))
    torch.manual_seed(0)
    output = unnormalised(augmentation, augmentation(torch.full((64, 3, 8, 8), 102, dtype=torch.uint8)))
    assert output.min() >= 0.4 * 0.8 - 1e-5
    assert output.max() <= 0.4 * 1.2 + 1e-5
    assert output.std() > 0.02


def test_checkpoints_hold_nothing_of_the_augmentation():
    assert build(ALL).state_dict() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_and_cpu_give_the_same_augmentation():
    augmentation, images = build(ALL), random_images()
    torch.manual_seed(0)
    expected = augmentation(images)
    torch.manual_seed(0)
    output = augmentation.cuda()(images.cuda())
    assert output.is_cuda
    torch.testing.assert_close(output.cpu(), expected, rtol=0, atol=1e-3)
