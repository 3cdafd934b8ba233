"""Changes pixel by pixel, against torchvision's functions of single images."""

from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.functional as reference
from torch import Tensor

from hjepa.data import pixels

SIZES = [(9, 9), (12, 33), (32, 32)]
FACTORS = torch.tensor([0.1, 0.73, 1.0, 1.27, 1.9])


def eight_bits(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Of low contrast, so that something is left to stretch and equalise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(20, 210, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def one_by_one(images: Tensor, change: Callable[..., Tensor], *numbers: list) -> Tensor:
    return torch.stack([change(image, *row) for image, *row in zip(images, *numbers, strict=True)])


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (pixels.brightness, reference.adjust_brightness),
        (pixels.contrast, reference.adjust_contrast),
        (pixels.saturation, reference.adjust_saturation),
        (pixels.sharpness, reference.adjust_sharpness),
    ],
)
def test_factors_agree_with_torchvision(ours: Callable, theirs: Callable, height: int, width: int):
    images = eight_bits(5, height, width).float() / 255
    expected = one_by_one(images, theirs, FACTORS.tolist())
    # Its luma weights sum to 0.9999.
    torch.testing.assert_close(ours(images, FACTORS), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_grey_agrees_with_torchvision(height: int, width: int):
    images = eight_bits(5, height, width).float() / 255
    expected = reference.rgb_to_grayscale(images, num_output_channels=3)
    torch.testing.assert_close(pixels.grayscale(images), expected, rtol=0, atol=1e-4)


def test_grey_images_stay_as_they_are():
    images = (eight_bits(5, 12, 12)[:, :1].float() / 255).expand(-1, 3, -1, -1)
    torch.testing.assert_close(pixels.grayscale(images), images)


@pytest.mark.parametrize("threshold", [0, 64, 128, 255])
def test_solarising_agrees_with_torchvision(threshold: int):
    images = eight_bits(5, 12, 33)
    images[:, :, 0] = 255
    ours = pixels.solarize(images.float() / 255, torch.full((5,), threshold / 255))
    torch.testing.assert_close(ours, reference.solarize(images, threshold).float() / 255)


def test_the_threshold_of_solarisation_is_pillows():
    images = torch.arange(256).float().reshape(1, 1, 16, 16) / 255
    changed = pixels.solarize(images, torch.tensor([pixels.SOLARIZATION_THRESHOLD])) != images
    assert changed.flatten().nonzero().min() == 128


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterising_agrees_with_torchvision(bits: int):
    images = eight_bits(5, 12, 33)
    ours = pixels.posterize(images.float() / 255, torch.full((5,), float(bits)))
    torch.testing.assert_close(ours, reference.posterize(images, bits).float() / 255)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_autocontrast_agrees_with_torchvision(height: int, width: int):
    images = eight_bits(5, height, width).float() / 255
    images[2] = 0.3
    torch.testing.assert_close(pixels.autocontrast(images), one_by_one(images, reference.autocontrast))


@pytest.mark.parametrize(("height", "width"), [*SIZES, (64, 48)])
def test_equalising_agrees_with_torchvision(height: int, width: int):
    images = eight_bits(5, height, width)
    images[1], images[2] = images[1] // 40 * 40, 77
    expected = one_by_one(images, reference.equalize).float() / 255
    torch.testing.assert_close(pixels.equalize(images.float() / 255), expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_blur_agrees_with_torchvision(height: int, width: int):
    images, sigma = eight_bits(4, height, width).float() / 255, [0.1, 0.5, 1.0, 2.0]
    kernel = 2 * pixels.BLUR_RADIUS + 1
    expected = one_by_one(
        images, lambda image, s: reference.gaussian_blur(image, [kernel] * 2, [s] * 2), sigma
    )
    torch.testing.assert_close(pixels.gaussian_blur(images, torch.tensor(sigma)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_blur_of_less_pixels_than_it_reaches_keeps_a_flat_image(side: int):
    images = torch.full((2, 3, side, side), 0.3)
    torch.testing.assert_close(pixels.gaussian_blur(images, torch.tensor([0.5, 2.0])), images)


def test_an_image_does_not_depend_on_its_neighbours():
    images = eight_bits(5, 16, 16).float() / 255
    for change in (pixels.brightness, pixels.contrast, pixels.saturation, pixels.sharpness, pixels.solarize):
        together = change(images, FACTORS)
        alone = torch.cat([change(images[i : i + 1], FACTORS[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(together, alone)
    for change in (pixels.grayscale, pixels.autocontrast, pixels.equalize):
        torch.testing.assert_close(change(images), torch.cat([change(image) for image in images.split(1)]))
