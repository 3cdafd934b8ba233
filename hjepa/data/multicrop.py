"""Several views of each image: global crops of the size that the model sees, and smaller local ones.

Shape letters: B images, V views of each, S = B * V views one image after another, C channels, P patches of
all local crops of an image.
"""

from dataclasses import dataclass
from typing import Annotated, Self

import torch
from numpy.typing import ArrayLike
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from hjepa.data.augmentation import Augmentation, AugmentationConfig, random_boxes
from hjepa.distributed import Share
from hjepa.schema import NO_EFFECT, Config

NUMBER_KEYS = ("num_local_crops", "adaptive", "adaptive_config")
LOCAL_KEYS = ("local_crop_size", "local_crop_scale", "local_color_jitter")
LOCAL_SHARE = 3 / 7
"""Side of a local crop over that of a global one where none is given: 96 of 224, as in DINO."""


def _is_a_range(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1] <= 1:
        raise ValueError("must be [smallest, largest] with 0 < smallest <= largest <= 1")
    return value


Scale = Annotated[tuple[float, float], AfterValidator(_is_a_range)]


class AdaptiveConfig(Config):
    """A number of local crops that grows from epoch to epoch."""

    min_local_crops: int = Field(default=2, ge=0, le=64)
    """Local crops of an image in the first epoch."""
    max_local_crops: int = Field(default=10, ge=0, le=64)
    """The same after the rise."""
    warmup_epochs: int = Field(default=30, ge=0)
    """Epochs over which the number rises linearly, rounded down; 0 starts with max_local_crops."""

    @model_validator(mode="after")
    def _it_rises(self) -> Self:
        if self.min_local_crops > self.max_local_crops:
            raise ValueError(
                f"min_local_crops {self.min_local_crops} is more than max_local_crops {self.max_local_crops}"
            )
        return self

    def inert(self) -> dict[str, str]:
        if self.min_local_crops == self.max_local_crops:
            return {"warmup_epochs": "min_local_crops equals max_local_crops"}
        return {"min_local_crops": "warmup_epochs is 0"} if self.warmup_epochs == 0 else {}

    def local_crops(self, epoch: int) -> int:
        """Local crops of an image in an epoch, counted from 0."""
        if epoch >= self.warmup_epochs:
            return self.max_local_crops
        rise = self.max_local_crops - self.min_local_crops
        return self.min_local_crops + rise * epoch // self.warmup_epochs


class MulticropConfig(Config):
    """Global and local crops of each training image (SwAV, Caron et al. 2020; DINO, Caron et al. 2021)."""

    num_global_crops: int = Field(default=2, ge=1, le=16)
    """Global crops of an image; each is masked and predicted as an image of its own."""
    num_local_crops: int = Field(default=6, ge=0, le=64)
    """Local crops of an image, encoded whole."""
    global_crop_size: int | None = Field(default=None, ge=4, json_schema_extra=NO_EFFECT)
    """Side of a global crop, in pixels; must be data.image_size, the size that the model is built for and
    judged at. null says the same."""
    local_crop_size: int | None = Field(default=None, ge=1)
    """Side of a local crop, in pixels, a multiple of the patch and no more than data.image_size; null: the
    multiple nearest to 3/7 of data.image_size, as 96 of 224."""
    global_crop_scale: Scale = (0.4, 1.0)
    """Smallest and largest area of a global crop, as a share of the image's; stands in for
    data.augmentation.crop_scale."""
    local_crop_scale: Scale = (0.05, 0.4)
    """Smallest and largest area of a local crop, as a share of the image's."""
    global_color_jitter: float | None = Field(default=None, ge=0, le=1)
    """Strength of colour jitter of global crops; null: data.augmentation.color_jitter."""
    local_color_jitter: float | None = Field(default=None, ge=0, le=1)
    """Strength of colour jitter of local crops; null: data.augmentation.color_jitter."""
    adaptive: bool = False
    """Let the number of local crops grow, as adaptive_config says."""
    adaptive_config: AdaptiveConfig = AdaptiveConfig()

    def inert(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.adaptive:
            found["num_local_crops"] = "data.multicrop.adaptive is true"
        else:
            found["adaptive_config"] = "data.multicrop.adaptive is false"
        return found

    def local_crops(self, epoch: int) -> int:
        """Local crops of an image in an epoch, counted from 0."""
        return self.adaptive_config.local_crops(epoch) if self.adaptive else self.num_local_crops

    def local_side(self, image_size: int, patch_size: int) -> int:
        """Side of a local crop, in pixels."""
        nearest = max(1, round(LOCAL_SHARE * image_size / patch_size)) * patch_size
        return self.local_crop_size or nearest

    def require_fit(self, image_size: int, patch_size: int) -> None:
        """ValueError where a size does not go with the model's."""
        whole, part = self.global_crop_size, self.local_side(image_size, patch_size)
        if whole is not None and whole != image_size:
            raise ValueError(
                f"data.multicrop.global_crop_size is {whole} and data.image_size {image_size}; they must be "
                "the same, so leave data.multicrop.global_crop_size null or set both"
            )
        if part % patch_size or part > image_size:
            raise ValueError(
                f"data.multicrop.local_crop_size is {part}; it must be a multiple of the patch size "
                f"{patch_size} (model.patch_size, or model.encoder_type's) and no more than "
                f"data.image_size {image_size}"
            )


@dataclass(frozen=True)
class LocalCrops:
    """Local crops of the images of a step, and what the predictor sees of them."""

    images_BVCHW: Tensor
    """Normalised pixels, V crops of each image."""
    places_SP2: Tensor | None = None
    """Where their patches lie in the frame of each global crop, for the predictor, as `patch_places` says;
    S = B * global crops. None: it does not see them."""
    alone: bool = False
    """The predictor sees them only, and nothing of the global crop."""

    def split(self, sizes: list[int]) -> list["LocalCrops"]:
        """The same in parts of so many images."""
        images, places = self.images_BVCHW.split(sizes), [None] * len(sizes)
        if self.places_SP2 is not None:
            crops = len(self.places_SP2) // len(self.images_BVCHW)
            places = self.places_SP2.split([size * crops for size in sizes])
        return [LocalCrops(*pair, self.alone) for pair in zip(images, places, strict=True)]


class Multicrop(nn.Module):
    """Stored uint8 images in, several normalised crops of each out.

    Global and local crops are each an Augmentation of their own, which differs from data.augmentation
    in area, size and colour jitter. A crop comes with the box that it shows.
    """

    def __init__(
        self,
        config: MulticropConfig,
        augmentation: AugmentationConfig,
        image_size: int,
        patch_size: int,
        mean: ArrayLike,
        std: ArrayLike,
    ):
        super().__init__()
        sides = (image_size, config.local_side(image_size, patch_size))
        self.grids = tuple(side // patch_size for side in sides)
        self.num_global_crops = config.num_global_crops
        self.global_view, self.local_view = (
            Augmentation(_cropped(augmentation, scale, jitter), side, mean, std)
            for scale, jitter, side in (
                (config.global_crop_scale, config.global_color_jitter, sides[0]),
                (config.local_crop_scale, config.local_color_jitter, sides[1]),
            )
        )

    def global_views(self, images_BCHW: Tensor, share: Share | None = None) -> tuple[Tensor, Tensor]:
        """Global crops, (S, 3, side, side), and their boxes, (B, V, 4) on the CPU; `share` as Augmentation
        has it."""
        views_BVCHW, boxes_BV4 = _views(self.global_view, images_BCHW, self.num_global_crops, share)
        return views_BVCHW.flatten(0, 1), boxes_BV4

    def local_views(
        self,
        images_BCHW: Tensor,
        count: int,
        frame_BV4: Tensor | None = None,
        alone: bool = False,
        share: Share | None = None,
    ) -> LocalCrops:
        """`count` > 0 local crops of each image.

        `frame_BV4` are the boxes of the global crops in whose frame they are placed; None: in none.
        """
        views_BVCHW, boxes_BV4 = _views(self.local_view, images_BCHW, count, share)
        if frame_BV4 is None:
            return LocalCrops(views_BVCHW)
        places_SP2 = patch_places(boxes_BV4, self.grids[1], frame_BV4, self.grids[0])
        return LocalCrops(views_BVCHW, places_SP2.to(images_BCHW.device), alone)


def _cropped(
    augmentation: AugmentationConfig, scale: tuple[float, float], jitter: float | None
) -> AugmentationConfig:
    changed = {"random_crop": True, "crop_scale": scale}
    if jitter is not None:
        changed["color_jitter"] = jitter
    return augmentation.model_copy(update=changed)


def _views(
    augment: Augmentation, images_BCHW: Tensor, count: int, share: Share | None
) -> tuple[Tensor, Tensor]:
    """Views (B, V, 3, side, side) and their boxes (B, V, 4)."""
    share = share or Share(len(images_BCHW), slice(None))
    # One view of all images at a time: the stored images need no copies.
    boxes = [share.take(random_boxes(share.batch, augment.config)) for _ in range(count)]
    views = [augment.view(images_BCHW, box_B4, share) for box_B4 in boxes]
    return torch.stack(views, dim=1), torch.stack(boxes, dim=1)


def patch_places(box_BV4: Tensor, grid: int, frame_BW4: Tensor, frame_grid: int) -> Tensor:
    """Where the patches of an image's crops lie in the frame of each of its other crops, (B * W, P, 2).

    `box_BV4` and `frame_BW4` are boxes as `random_boxes` gives them, mirrored ones too, of crops of `grid`
    and `frame_grid` patches a side. Places are row and column, counted in patches of the frame, so that
    the middle of its first patch is at 0, 0; they need be neither whole nor inside.
    """
    middles_G = (torch.arange(grid, device=box_BV4.device) + 0.5) / grid

    def along(start: int, end: int) -> Tensor:
        first_BV, last_BV = box_BV4[..., start], box_BV4[..., end]
        of_image_BVG = torch.lerp(first_BV[..., None], last_BV[..., None], middles_G)
        origin_BW11, far_BW11 = frame_BW4[..., start, None, None], frame_BW4[..., end, None, None]
        return (of_image_BVG[:, None] - origin_BW11) / (far_BW11 - origin_BW11) * frame_grid - 0.5

    rows_BWVG, columns_BWVG = along(1, 3), along(0, 2)
    shape = (*rows_BWVG.shape, grid)
    rows, columns = rows_BWVG[..., :, None].expand(shape), columns_BWVG[..., None, :].expand(shape)
    return torch.stack([rows, columns], dim=-1).flatten(0, 1).flatten(1, 3)
