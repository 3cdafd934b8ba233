"""The `data.augmentation.deit3` section, and 3-Augment.

Shape letters: B images, C channels, S x S pixels, K numbers per image.
"""

from typing import Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from hjepa.data import pixels
from hjepa.data.changes import Change, RandomErasing, blur_sigma, change_chosen
from hjepa.data.randaugment import BINS, RandAugment
from hjepa.schema import Config

SMALLEST_ALPHA = 0.01
"""Below it, single precision cannot draw from a beta distribution."""


class Deit3Config(Config):
    """DeiT III's augmentation (Touvron et al. 2022), and RandAugment and erasing of the first DeiT."""

    three_augment: bool | None = None
    """3-Augment: each image becomes grey, or solarised, or blurred, a third each. Null is true unless
    auto_augment is."""
    auto_augment: bool = False
    """RandAugment (Cubuk et al. 2020): random operations on each image. Not together with 3-Augment."""
    rand_aug_num_ops: int = Field(default=2, ge=1, le=14)
    """Operations on each image, one after another, drawn with replacement from torchvision's 14."""
    rand_aug_magnitude: int = Field(default=9, ge=0, le=BINS - 1)
    """Their strength, torchvision's bin of 31: 0 the weakest, 30 the strongest."""
    random_erasing_prob: float = Field(default=0.0, ge=0, le=1)
    """Probability of setting a random box of an image to the data set's mean colour."""
    random_erasing_scale: tuple[float, float] = (0.02, 0.33)
    """Smallest and largest area of that box, as a share of the image's."""
    random_erasing_ratio: tuple[float, float] = (0.3, 3.3)
    """Smallest and largest height / width of that box."""
    mixup_alpha: float = Field(default=0.8, ge=0)
    """Mixup (Zhang et al. 2018): images are averaged in pairs, the weight drawn from Beta(alpha, alpha).
    0 is off, else at least 0.01. Images only: nothing here has labels."""
    cutmix_alpha: float = Field(default=1.0, ge=0)
    """CutMix (Yun et al. 2019): a box of an image is replaced by its neighbour's, of area 1 - Beta(alpha,
    alpha) before it is cut at the edges. 0 is off, else at least 0.01."""
    mixup_cutmix_prob: float = Field(default=1.0, ge=0, le=1)
    """Probability of mixing an image with its neighbour at all."""
    mixup_switch_prob: float = Field(default=0.5, ge=0, le=1)
    """Of the images that are mixed, the share for CutMix where both are on; the others are for mixup."""

    @field_validator("random_erasing_scale")
    @classmethod
    def _scale_is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("must be [smallest, largest] with 0 < smallest <= largest <= 1")
        return value

    @field_validator("random_erasing_ratio")
    @classmethod
    def _ratio_is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("must be [smallest, largest] with 0 < smallest <= largest")
        return value

    @field_validator("mixup_alpha", "cutmix_alpha")
    @classmethod
    def _alpha_can_be_drawn_with(cls, value: float) -> float:
        if 0 < value < SMALLEST_ALPHA:
            raise ValueError(f"must be 0, which is off, or at least {SMALLEST_ALPHA}")
        return value

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        if self.three_augment and self.auto_augment:
            raise ValueError(
                "three_augment and auto_augment are both true; they are alternatives, so set one to false"
            )
        return self

    @property
    def uses_three_augment(self) -> bool:
        return not self.auto_augment if self.three_augment is None else self.three_augment

    @property
    def cutmix_share(self) -> float:
        """Of the images that are mixed, the share for CutMix."""
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
            return self.mixup_switch_prob
        return float(self.cutmix_alpha > 0)

    @property
    def mixes(self) -> bool:
        return self.mixup_cutmix_prob > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)

    @property
    def varies(self) -> bool:
        """Whether views of one image differ by it; mixing makes no views."""
        return self.uses_three_augment or self.auto_augment or self.random_erasing_prob > 0

    def inert(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.auto_augment:
            found["three_augment"] = "auto_augment is true"
        else:
            found |= dict.fromkeys(("rand_aug_num_ops", "rand_aug_magnitude"), "auto_augment is false")
        if self.random_erasing_prob == 0:
            off = ("random_erasing_scale", "random_erasing_ratio")
            found |= dict.fromkeys(off, "random_erasing_prob is 0")
        return found | self._inert_in_mixing()

    def _inert_in_mixing(self) -> dict[str, str]:
        if self.mixup_cutmix_prob == 0:
            keys = ("mixup_alpha", "cutmix_alpha", "mixup_switch_prob")
            return dict.fromkeys(keys, "mixup_cutmix_prob is 0")
        off = [name for name in ("mixup_alpha", "cutmix_alpha") if getattr(self, name) == 0]
        if off:
            found = {"mixup_switch_prob": f"{' and '.join(off)} {'is' if len(off) == 1 else 'are'} 0"}
            return found | ({"mixup_cutmix_prob": found["mixup_switch_prob"]} if len(off) == 2 else {})
        if self.mixup_switch_prob == 1:
            return {"mixup_alpha": "mixup_switch_prob is 1: CutMix only"}
        if self.mixup_switch_prob == 0:
            return {"cutmix_alpha": "mixup_switch_prob is 0: mixup only"}
        return {}

    def colour_changes(self) -> list[Change]:
        """What comes between cropping and colour jitter."""
        if self.auto_augment:
            return [RandAugment(self.rand_aug_num_ops, self.rand_aug_magnitude)]
        return [ThreeAugment()] if self.uses_three_augment else []

    def erasing(self) -> list[Change]:
        """What comes after normalisation."""
        if self.random_erasing_prob == 0:
            return []
        return [RandomErasing(self.random_erasing_prob, self.random_erasing_scale, self.random_erasing_ratio)]


class ThreeAugment:
    """Each image grey, solarised or blurred."""

    def draw(self, count: int) -> Tensor:
        kind_B = torch.randint(3, (count,))
        return torch.stack([kind_B, blur_sigma(torch.rand(count))], dim=1)

    def apply(self, images_BCSS: Tensor, drawn_BK: Tensor) -> Tensor:
        kind_B, sigma_B = drawn_BK.unbind(1)
        threshold_B = torch.full_like(sigma_B, pixels.SOLARIZATION_THRESHOLD)
        images_BCSS = change_chosen(images_BCSS, kind_B == 0, lambda x, _: pixels.grayscale(x), sigma_B)
        images_BCSS = change_chosen(images_BCSS, kind_B == 1, pixels.solarize, threshold_B)
        return change_chosen(images_BCSS, kind_B == 2, pixels.gaussian_blur, sigma_B)
