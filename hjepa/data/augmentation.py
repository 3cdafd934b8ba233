"""Resizing, augmentation and normalisation of image batches on the device that trains.

Shape letters: B images, C channels, H x W stored size in pixels, S x S size the model sees.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from numpy.typing import ArrayLike
from pydantic import Field, field_validator
from torch import Tensor, nn

from hjepa.data.changes import Change, Jitter, RandomBlur, RandomGray, RandomSolarization
from hjepa.data.deit3 import Deit3Config
from hjepa.data.mixing import Mixing
from hjepa.distributed import Share
from hjepa.schema import Config

MAX_ASPECT = 4 / 3
"""Widest and, inverted, narrowest aspect ratio of a random crop, as in Inception-style cropping."""


class AugmentationConfig(Config):
    """What is changed at random in each training image, drawn anew for every image."""

    random_crop: bool = True
    """Cut a random box out of each image and resize it to image_size."""
    crop_scale: tuple[float, float] = (0.6, 1.0)
    """Smallest and largest area of the random box, as a share of the image's."""
    horizontal_flip: bool | float = Field(default=False, ge=0, le=1)
    """Probability of mirroring an image left to right; true means 0.5."""
    color_jitter: float = Field(default=0.0, ge=0, le=1)
    """Strength s: brightness, contrast and saturation change by a factor in [1 - s, 1 + s], the hue by
    up to s/4 of a turn. 0 is off."""
    random_gray_scale: float = Field(default=0.0, ge=0, le=1)
    """Probability of taking an image's colours away."""
    gaussian_blur: float = Field(default=0.0, ge=0, le=1)
    """Probability of blurring an image, by a standard deviation between 0.1 and 2 pixels of what the model
    sees, whatever image_size: meant for 224, strong below 64."""
    solarization: float = Field(default=0.0, ge=0, le=1)
    """Probability of inverting the pixels of an image that are brighter than half."""
    strategy: Literal["jepa", "deit3"] = "jepa"
    """jepa is what stands above; deit3 adds what the deit3 section says."""
    deit3: Deit3Config = Deit3Config()

    @field_validator("crop_scale")
    @classmethod
    def _crop_scale_is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("must be [smallest, largest] with 0 < smallest <= largest <= 1")
        return value

    @property
    def flip_probability(self) -> float:
        return 0.5 if self.horizontal_flip is True else float(self.horizontal_flip)

    @property
    def varies(self) -> bool:
        """Whether views of one image differ."""
        cropped = self.random_crop and self.crop_scale != (1.0, 1.0)
        some = (self.flip_probability, self.random_gray_scale, self.solarization)
        by_chance = any(0 < probability < 1 for probability in some)
        by_amount = self.color_jitter > 0 or self.gaussian_blur > 0
        return cropped or by_chance or by_amount or (self.strategy == "deit3" and self.deit3.varies)

    @property
    def mixing(self) -> Mixing | None:
        """What mixes the images of a training step, after all else."""
        return Mixing(self.deit3) if self.strategy == "deit3" and self.deit3.mixes else None

    def inert(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if not self.random_crop:  # a box of the whole image is drawn too, and moves what is drawn after it
            found["crop_scale"] = "random_crop is false"
        if self.strategy == "jepa":
            found["deit3"] = "strategy is jepa"
        return found

    def colour_changes(self) -> list[Change]:
        """What comes between cropping and normalisation, in order."""
        changes = self.deit3.colour_changes() if self.strategy == "deit3" else []
        if self.color_jitter > 0:
            changes.append(Jitter(self.color_jitter))
        if self.random_gray_scale > 0:
            changes.append(RandomGray(self.random_gray_scale))
        if self.gaussian_blur > 0:
            changes.append(RandomBlur(self.gaussian_blur))
        if self.solarization > 0:
            changes.append(RandomSolarization(self.solarization))
        return changes


@dataclass(frozen=True)
class Drawn:
    """All that is random in a view of each of B images, on the CPU."""

    box_B4: Tensor
    changes: list[Tensor]
    """For each change in order, numbers (B, K)."""

    def take(self, rows: Callable[[Tensor], Tensor]) -> "Drawn":
        """Of some of the images, such as `lambda values: values[:4]`."""
        return Drawn(rows(self.box_B4), [rows(drawn_BK) for drawn_BK in self.changes])


class Augmentation(nn.Module):
    """Stored uint8 images in, what the model sees out; one batched call, on the images' device.

    `mean` and `std` are per channel, (3,), of images scaled to [0, 1]. Randomness is drawn from torch's
    global CPU generator, so that one seed gives the same crops on every kind of device.
    """

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, config: AugmentationConfig, image_size: int, mean: ArrayLike, std: ArrayLike):
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.colour = config.colour_changes()
        self.erasing = config.deit3.erasing() if config.strategy == "deit3" else []
        for name, value in (("mean_C11", mean), ("std_C11", std)):
            value_C11 = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, value_C11, persistent=False)

    def forward(self, images_BCHW: Tensor, share: Share | None = None) -> Tensor:
        """Augmented and normalised, (B, 3, S, S) float32, from (B, 3, H, W) uint8.

        With `share` the images are those rows of a batch: randomness is drawn for the whole batch, and
        each gets what it would get there.
        """
        share = share or Share(len(images_BCHW), slice(None))
        return self.apply_drawn(images_BCHW, self.draw(share.batch).take(share.take))

    def view(self, images_BCHW: Tensor, box_B4: Tensor, share: Share | None = None) -> Tensor:
        """As `forward`, of boxes that are drawn already, one for each of these images."""
        share = share or Share(len(images_BCHW), slice(None))
        changes = [share.take(drawn_BK) for drawn_BK in self.draw_changes(share.batch)]
        return self.apply_drawn(images_BCHW, Drawn(box_B4, changes))

    def draw(self, count: int) -> Drawn:
        """All that is random in views of `count` images."""
        return Drawn(random_boxes(count, self.config), self.draw_changes(count))

    def draw_changes(self, count: int) -> list[Tensor]:
        """The same but for the boxes."""
        return [change.draw(count) for change in (*self.colour, *self.erasing)]

    @torch.no_grad()
    def apply_drawn(self, images_BCHW: Tensor, drawn: Drawn) -> Tensor:
        """The views that were drawn; an image's depends on its own rows only."""
        box_B4 = drawn.box_B4.to(images_BCHW.device)
        colour, erasing = drawn.changes[: len(self.colour)], drawn.changes[len(self.colour) :]
        # Autocast would do the resampling in half precision, coarser than the 8 bits of the images.
        with torch.autocast(images_BCHW.device.type, enabled=False):
            images_BCSS = resample(images_BCHW.float() / 255, box_B4, self.image_size)
            for change, drawn_BK in zip(self.colour, colour, strict=True):
                images_BCSS = change.apply(images_BCSS, drawn_BK)
            images_BCSS = (images_BCSS - self.mean_C11) / self.std_C11
            for change, drawn_BK in zip(self.erasing, erasing, strict=True):
                images_BCSS = change.apply(images_BCSS, drawn_BK)
            return images_BCSS

    @torch.no_grad()
    def plain(self, images_BCHW: Tensor) -> Tensor:
        """Resized and normalised only, for evaluation: (B, 3, S, S) float32 from (B, 3, H, W) uint8."""
        box_14 = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=images_BCHW.device)
        with torch.autocast(images_BCHW.device.type, enabled=False):
            images_BCSS = resample(images_BCHW.float() / 255, box_14, self.image_size)
            return (images_BCSS - self.mean_C11) / self.std_C11


def random_boxes(batch_size: int, config: AugmentationConfig) -> Tensor:
    """Boxes left, top, right, bottom as shares of the image, (B, 4) on the CPU; left > right is mirrored.

    The area is uniform over crop_scale, the logarithm of the aspect ratio uniform over what fits the
    image at that area, so nothing is drawn in vain and no box falls outside the range.
    """
    left_B, top_B = torch.zeros(2, batch_size)
    right_B, bottom_B = torch.ones(2, batch_size)
    if config.random_crop:
        smallest, largest = config.crop_scale
        area_B, aspect_B, x_B, y_B = torch.rand(4, batch_size)
        area_B = smallest + (largest - smallest) * area_B
        log_limit_B = (-area_B.log()).clamp(0, math.log(MAX_ASPECT))
        aspect_B = ((2 * aspect_B - 1) * log_limit_B).exp()
        width_B, height_B = (area_B * aspect_B).sqrt(), (area_B / aspect_B).sqrt()
        left_B, top_B = x_B * (1 - width_B), y_B * (1 - height_B)
        right_B, bottom_B = left_B + width_B, top_B + height_B
    if config.flip_probability > 0:
        flipped_B = torch.rand(batch_size) < config.flip_probability
        left_B, right_B = torch.where(flipped_B, right_B, left_B), torch.where(flipped_B, left_B, right_B)
    return torch.stack([left_B, top_B, right_B, bottom_B], dim=1)


# Not kornia's RandomResizedCrop: it rounds boxes to whole stored pixels (three sizes in all on 8 px
# digits), aligns corners, so that training would see another geometry than plain(), and aliases where
# it shrinks. It also costs 1.6 ms for 64 images at 16 px on one thread, half of it solving homographies;
# this costs 0.3 ms, flip included. Two matrix products rather than grid_sample, which cannot antialias
# and lacks border padding on MPS.
def resample(images_BCHW: Tensor, box_B4: Tensor, size: int) -> Tensor:
    """The boxes of `images_BCHW` as (B, C, size, size): bilinear, antialiased where they shrink.

    `box_B4` is left, top, right, bottom as shares of width and height; (1, 4) stands for all images.
    A whole image gives what `F.interpolate(..., mode="bilinear", antialias=True)` does.
    """
    height, width = images_BCHW.shape[-2:]
    left_B, top_B, right_B, bottom_B = box_B4.unbind(1)
    rows_BSH = _triangle_weights(top_B, bottom_B, height, size)
    columns_BSW = _triangle_weights(left_B, right_B, width, size)
    images_BCHS = (images_BCHW.flatten(1, 2) @ columns_BSW.mT).unflatten(1, images_BCHW.shape[1:3])
    return rows_BSH[:, None] @ images_BCHS


def _triangle_weights(start_B: Tensor, end_B: Tensor, length: int, size: int) -> Tensor:
    """Share of each of `length` stored pixels in each of `size` pixels between start and end."""
    steps_S = (torch.arange(size, device=start_B.device) + 0.5) / size
    pixels_L = torch.arange(length, device=start_B.device) + 0.5
    centres_BS = torch.lerp(start_B[:, None], end_B[:, None], steps_S) * length
    reach_B = ((end_B - start_B).abs() * length / size).clamp(min=1)
    distance_BSL = (centres_BS[:, :, None] - pixels_L).abs() / reach_B[:, None, None]
    weights_BSL = (1 - distance_BSL).relu()
    return weights_BSL / weights_BSL.sum(dim=-1, keepdim=True)
