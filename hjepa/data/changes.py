"""Random changes of some images of a batch: what is drawn apart from what is done with it.

A change draws a row of numbers per image from torch's global CPU generator, in one go for a whole batch,
and is then applied to any of the images with their rows: on any device the same, whatever other images
there are. Shape letters: B images, C channels, S x S pixels, K numbers per image.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hjepa.data.pixels import SOLARIZATION_THRESHOLD, gaussian_blur, grayscale, solarize

BLUR_SIGMA = (0.1, 2.0)
"""Weakest and strongest blur, standard deviations in pixels, as in SimCLR, BYOL and DINO."""


class Change(Protocol):
    """A random change of images with values in [0, 1]."""

    def draw(self, count: int) -> Tensor:
        """Numbers for `count` images, (count, K) on the CPU."""
        ...

    def apply(self, images_BCSS: Tensor, drawn_BK: Tensor) -> Tensor:
        """The changed images."""
        ...


def change_chosen(
    images_BCSS: Tensor, chosen_B: Tensor, change: Callable[[Tensor, Tensor], Tensor], numbers_B: Tensor
) -> Tensor:
    """`change` of the chosen images, given also their rows of `numbers_B`; the others as they are.

    `chosen_B` and `numbers_B` are on the CPU: no device is waited for.
    """
    if not chosen_B.any():
        return images_BCSS
    index_N = chosen_B.nonzero()[:, 0]
    on_device_N = index_N.to(images_BCSS.device)
    changed = change(images_BCSS[on_device_N], numbers_B[index_N].to(images_BCSS.device))
    return images_BCSS.index_copy(0, on_device_N, changed)


class Jitter:
    """Brightness, contrast, saturation and hue, by factors per image; in one random order per batch."""

    def __init__(self, strength: float):
        # Here, for it takes 0.2 s and 20 MB, and many runs change no colours.
        from kornia.augmentation import ColorJitter

        self.jitter = ColorJitter(strength, strength, strength, strength / 4)

    def draw(self, count: int) -> Tensor:
        drawn = self.jitter.forward_parameters(torch.Size([count, 3, 1, 1]))
        factors = [drawn[f"{name}_factor"] for name in self._FACTORS]
        return torch.cat([torch.stack(factors, dim=1), drawn["order"].expand(count, 4)], dim=1)

    def apply(self, images_BCSS: Tensor, drawn_BK: Tensor) -> Tensor:
        factors = dict(zip((f"{name}_factor" for name in self._FACTORS), drawn_BK.T, strict=False))
        rest = {"order": drawn_BK[0, 4:].long(), "batch_prob": torch.ones(len(drawn_BK))}
        return self.jitter(images_BCSS, params=factors | rest)

    _FACTORS = ("brightness", "contrast", "saturation", "hue")


class RandomGray:
    """Grey instead of colours, with a probability."""

    def __init__(self, probability: float):
        self.probability = probability

    def draw(self, count: int) -> Tensor:
        return (torch.rand(count, 1) < self.probability).float()

    def apply(self, images_BCSS: Tensor, drawn_BK: Tensor) -> Tensor:
        return change_chosen(images_BCSS, drawn_BK[:, 0] > 0, lambda images, _: grayscale(images), drawn_BK)


class RandomBlur:
    """Gaussian blur, with a probability, by a standard deviation uniform over BLUR_SIGMA."""

    def __init__(self, probability: float):
        self.probability = probability

    def draw(self, count: int) -> Tensor:
        """The standard deviation; 0 for images that stay sharp."""
        chosen_B, share_B = torch.rand(2, count)
        return torch.where(chosen_B < self.probability, blur_sigma(share_B), 0)[:, None]

    def apply(self, images_BCSS: Tensor, drawn_BK: Tensor) -> Tensor:
        sigma_B = drawn_BK[:, 0]
        return change_chosen(images_BCSS, sigma_B > 0, gaussian_blur, sigma_B)


class RandomSolarization:
    """Bright pixels inverted, with a probability."""

    def __init__(self, probability: float):
        self.probability = probability

    def draw(self, count: int) -> Tensor:
        return (torch.rand(count, 1) < self.probability).float()

    def apply(self, images_BCSS: Tensor, drawn_BK: Tensor) -> Tensor:
        threshold_B = torch.full((len(drawn_BK),), SOLARIZATION_THRESHOLD)
        return change_chosen(images_BCSS, drawn_BK[:, 0] > 0, solarize, threshold_B)


class RandomErasing:
    """A box of each image set to 0, with a probability (Zhong et al. 2020).

    The area is uniform over `scale`, a share of the image's; the logarithm of height / width is uniform
    over `ratio`, then limited to what fits the image. Sides are whole pixels, one at least.
    """

    def __init__(self, probability: float, scale: tuple[float, float], ratio: tuple[float, float]):
        self.probability, self.scale = probability, scale
        self.log_ratio = (math.log(ratio[0]), math.log(ratio[1]))

    def draw(self, count: int) -> Tensor:
        """Whether to erase; height and width as shares; the place down and across, 0 first and 1 last."""
        chosen_B, area_B, ratio_B, down_B, across_B = torch.rand(5, count)
        area_B = self.scale[0] + (self.scale[1] - self.scale[0]) * area_B
        ratio_B = self.log_ratio[0] + (self.log_ratio[1] - self.log_ratio[0]) * ratio_B
        ratio_B = torch.clamp(ratio_B, area_B.log(), -area_B.log()).exp()
        height_B, width_B = (area_B * ratio_B).sqrt(), (area_B / ratio_B).sqrt()
        chosen_B = (chosen_B < self.probability).float()
        return torch.stack([chosen_B, height_B, width_B, down_B, across_B], dim=1)

    def apply(self, images_BCSS: Tensor, drawn_BK: Tensor) -> Tensor:
        size = images_BCSS.shape[-1]
        chosen_B, height_B, width_B, down_B, across_B = drawn_BK.to(images_BCSS.device).unbind(1)
        rows_BS = _span(height_B, down_B, size) & (chosen_B > 0)[:, None]
        erased_BSS = rows_BS[:, :, None] & _span(width_B, across_B, size)[:, None]
        return images_BCSS.masked_fill(erased_BSS[:, None], 0)


def _span(share_B: Tensor, place_B: Tensor, size: int) -> Tensor:
    """Which of `size` pixels are in a run of them, (B, size); `place_B` says where of all that fit."""
    length_B = (share_B * size).round().clamp(1, size)
    start_B = (place_B * (size - length_B + 1)).floor()
    pixels_S = torch.arange(size, device=share_B.device)
    return (pixels_S >= start_B[:, None]) & (pixels_S < (start_B + length_B)[:, None])


def blur_sigma(share_B: Tensor) -> Tensor:
    """Standard deviations in BLUR_SIGMA, from numbers between 0 and 1."""
    return BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * share_B
