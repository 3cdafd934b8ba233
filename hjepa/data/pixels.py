"""Changes of images pixel by pixel, batched: each image by an amount of its own.

Shape letters: B images, C channels, H x W pixels, K taps of a kernel. Values are in [0, 1] and stay there.
What is defined on 8 bits (posterise, equalise) rounds to them first. All agree with torchvision's
functions of the same name; an image's result does not depend on the others of the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_RADIUS = 8
"""Taps on either side of a blur's middle, in pixels; four standard deviations of the strongest."""
SOLARIZATION_THRESHOLD = 128 / 255
"""Pillow's: what is at least half as bright as white is inverted."""
_GREY = (0.299, 0.587, 0.114)  # ITU-R 601-2; sums to 1, so that grey pixels stay as they are


def grayscale(images_BCHW: Tensor) -> Tensor:
    """Luma in all three channels."""
    return luma(images_BCHW).expand_as(images_BCHW)


def luma(images_BCHW: Tensor) -> Tensor:
    """Brightness as seen, (B, 1, H, W)."""
    weights_C11 = torch.tensor(_GREY, device=images_BCHW.device)[:, None, None]
    return (images_BCHW * weights_C11).sum(dim=1, keepdim=True)


def solarize(images_BCHW: Tensor, threshold_B: Tensor) -> Tensor:
    """Invert what is at least as bright as the threshold."""
    return torch.where(images_BCHW >= threshold_B[:, None, None, None], 1 - images_BCHW, images_BCHW)


def brightness(images_BCHW: Tensor, factor_B: Tensor) -> Tensor:
    return _blend(torch.zeros_like(images_BCHW), images_BCHW, factor_B)


def contrast(images_BCHW: Tensor, factor_B: Tensor) -> Tensor:
    """Away from the image's mean luma, or towards it."""
    return _blend(luma(images_BCHW).mean(dim=(2, 3), keepdim=True), images_BCHW, factor_B)


def saturation(images_BCHW: Tensor, factor_B: Tensor) -> Tensor:
    return _blend(luma(images_BCHW), images_BCHW, factor_B)


def sharpness(images_BCHW: Tensor, factor_B: Tensor) -> Tensor:
    """Away from the smoothed image, or towards it; the outermost pixels stay."""
    across_BCHW = images_BCHW[..., :-2] + images_BCHW[..., 1:-1] + images_BCHW[..., 2:]
    sums_BCHW = across_BCHW[..., :-2, :] + across_BCHW[..., 1:-1, :] + across_BCHW[..., 2:, :]
    smooth_BCHW = images_BCHW.clone()
    smooth_BCHW[..., 1:-1, 1:-1] = (sums_BCHW + 4 * images_BCHW[..., 1:-1, 1:-1]) / 13
    return _blend(smooth_BCHW, images_BCHW, factor_B)


def _blend(from_BCHW: Tensor, to_BCHW: Tensor, factor_B: Tensor) -> Tensor:
    """Factor 0 gives the one, 1 the other, more than 1 goes on beyond it."""
    factor_B111 = factor_B[:, None, None, None]
    return (factor_B111 * to_BCHW + (1 - factor_B111) * from_BCHW).clamp(0, 1)


def posterize(images_BCHW: Tensor, bits_B: Tensor) -> Tensor:
    """Keep the highest bits of eight."""
    step_B111 = 2.0 ** (8 - bits_B)[:, None, None, None]
    return (_eight_bits(images_BCHW) / step_B111).floor() * step_B111 / 255


def autocontrast(images_BCHW: Tensor) -> Tensor:
    """Stretch each channel to 0 to 1; one of a single value stays."""
    low_BC11, high_BC11 = images_BCHW.amin((2, 3), keepdim=True), images_BCHW.amax((2, 3), keepdim=True)
    range_BC11 = high_BC11 - low_BC11
    flat_BC11 = range_BC11 == 0
    stretched_BCHW = (images_BCHW - low_BC11) / torch.where(flat_BC11, 1, range_BC11)
    return torch.where(flat_BC11, images_BCHW, stretched_BCHW.clamp(0, 1))


def equalize(images_BCHW: Tensor) -> Tensor:
    """Make every value of 8 bits about as frequent in each channel; one of few values stays."""
    values_NP = _eight_bits(images_BCHW).long().flatten(0, 1).flatten(1)
    counts = torch.zeros(len(values_NP), 256, dtype=torch.long, device=images_BCHW.device)
    counts_NV = counts.scatter_add(1, values_NP, torch.ones_like(values_NP))
    of_brightest_N1 = counts_NV.gather(1, values_NP.amax(1, keepdim=True))
    step_N1 = (values_NP.shape[1] - of_brightest_N1) // 255
    darker_NV = counts_NV.cumsum(1) - counts_NV
    table_NV = ((darker_NV + step_N1 // 2) // step_N1.clamp(min=1)).clamp(0, 255)
    table_NV[:, 0] = 0
    equal_NP = torch.where(step_N1 == 0, values_NP, table_NV.gather(1, values_NP))
    return (equal_NP / 255).reshape(images_BCHW.shape)


def _eight_bits(images_BCHW: Tensor) -> Tensor:
    return (images_BCHW * 255).round().clamp(0, 255)


# Two products with a matrix per image: faster than convolutions on small images, and those of torch
# cannot mirror an image that has fewer pixels than the kernel reaches.
def gaussian_blur(images_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Blur by a standard deviation in pixels, mirrored at the edges; more than BLUR_RADIUS / 4 is cut off."""
    height, width = images_BCHW.shape[-2:]
    offsets_K = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=images_BCHW.device)
    kernel_BK = torch.exp(-0.5 * (offsets_K / sigma_B[:, None]) ** 2)
    kernel_BK = kernel_BK / kernel_BK.sum(dim=1, keepdim=True)
    across_BCHW = (images_BCHW.flatten(1, 2) @ _taps(kernel_BK, width).mT).reshape(images_BCHW.shape)
    return (_taps(kernel_BK, height)[:, None] @ across_BCHW).clamp(0, 1)


def _taps(kernel_BK: Tensor, length: int) -> Tensor:
    """The kernel as a matrix per image, (B, length, length), from pixels to blurred pixels."""
    offsets_K = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=kernel_BK.device)
    pixels_L = torch.arange(length, device=kernel_BK.device)
    period = max(2 * (length - 1), 1)
    place_KL = (pixels_L + offsets_K[:, None]).remainder(period)
    mirrored_KL = torch.minimum(place_KL, period - place_KL)
    taps_KLL = (mirrored_KL[:, :, None] == pixels_L).float()
    return (kernel_BK @ taps_KLL.flatten(1)).unflatten(1, (length, length))


def warp(images_BCHW: Tensor, matrix_B23: Tensor) -> Tensor:
    """Each pixel from the place that the matrix sends its own to, bilinear; black outside.

    Places are x, y and 1, x and y from -1 to 1 between the outer edges.
    """
    places_BHW2 = F.affine_grid(matrix_B23, list(images_BCHW.shape), align_corners=False)
    moved_BCHW = F.grid_sample(
        images_BCHW, places_BHW2, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return moved_BCHW.clamp(0, 1)
