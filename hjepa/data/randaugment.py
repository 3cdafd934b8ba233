"""RandAugment (Cubuk et al. 2020), drawn for each image.

Shape letters: B images, C channels, S x S pixels, K numbers per image, N operations on each.
"""

import math

import torch
from torch import Tensor

from hjepa.data import pixels
from hjepa.data.changes import change_chosen

BINS = 31
"""Magnitudes, 0 to 30."""


class RandAugment:
    """Random operations on each image, as torchvision's RandAugment but bilinear."""

    OPERATIONS = (
        "identity",
        "shear_x",
        "shear_y",
        "translate_x",
        "translate_y",
        "rotate",
        "brightness",
        "saturation",
        "contrast",
        "sharpness",
        "posterize",
        "solarize",
        "autocontrast",
        "equalize",
    )

    def __init__(self, num_ops: int, magnitude: int):
        self.num_ops = num_ops
        self.magnitude = magnitude / (BINS - 1)

    def draw(self, count: int) -> Tensor:
        """Operations and their signs, (count, 2 * num_ops)."""
        operation_BN = torch.randint(len(self.OPERATIONS), (count, self.num_ops))
        sign_BN = 2 * torch.randint(2, (count, self.num_ops)) - 1
        return torch.cat([operation_BN, sign_BN], dim=1).float()

    def apply(self, images_BCSS: Tensor, drawn_BK: Tensor) -> Tensor:
        for operation_B, sign_B in zip(*(part.unbind(1) for part in drawn_BK.chunk(2, dim=1)), strict=True):
            names = [self.OPERATIONS[int(number)] for number in operation_B]
            images_BCSS = self._geometry(images_BCSS, names, sign_B)
            for name, change in self._COLOUR.items():
                chosen_B = torch.tensor([present == name for present in names])
                amount_B = self._amount(name, sign_B)
                images_BCSS = change_chosen(images_BCSS, chosen_B, change, amount_B)
        return images_BCSS

    _COLOUR = {  # noqa: RUF012 (never changed)
        "brightness": pixels.brightness,
        "saturation": pixels.saturation,
        "contrast": pixels.contrast,
        "sharpness": pixels.sharpness,
        "posterize": pixels.posterize,
        "solarize": pixels.solarize,
        "autocontrast": lambda images, _: pixels.autocontrast(images),
        "equalize": lambda images, _: pixels.equalize(images),
    }

    def _amount(self, name: str, sign_B: Tensor) -> Tensor:
        """What the operation takes: a factor, bits, or a threshold."""
        if name == "posterize":
            return torch.full_like(sign_B, 8 - round(4 * self.magnitude))
        if name == "solarize":
            return torch.full_like(sign_B, 1 - self.magnitude)
        return 1 + 0.9 * self.magnitude * sign_B

    def _geometry(self, images_BCSS: Tensor, names: list[str], sign_B: Tensor) -> Tensor:
        size = images_BCSS.shape[-1]
        matrices = [self._matrix(name, float(sign), size) for name, sign in zip(names, sign_B, strict=True)]
        chosen_B = torch.tensor([matrix is not None for matrix in matrices])
        still = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        matrix_B23 = torch.tensor([still if matrix is None else matrix for matrix in matrices])
        return change_chosen(images_BCSS, chosen_B, pixels.warp, matrix_B23)

    def _matrix(self, name: str, sign: float, size: int) -> list[list[float]] | None:
        """Where a pixel of the result comes from, for `pixels.warp`; None where nothing moves."""
        if name in ("shear_x", "shear_y"):  # the first row or column stays
            s = 0.3 * self.magnitude * sign
            return [[1, s, s], [0, 1, 0]] if name == "shear_x" else [[1, 0, 0], [s, 1, s]]
        if name in ("translate_x", "translate_y"):
            moved = 2 * sign * int(150 / 331 * size * self.magnitude) / size
            return [[1, 0, -moved], [0, 1, 0]] if name == "translate_x" else [[1, 0, 0], [0, 1, -moved]]
        if name == "rotate":  # counter-clockwise
            angle = math.radians(30) * self.magnitude * sign
            sine, cosine = math.sin(angle), math.cos(angle)
            return [[cosine, -sine, 0], [sine, cosine, 0]]
        return None
