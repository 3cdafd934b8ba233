"""Multi-block masks for a whole batch at once.

Shape letters: B images, M target blocks, C context blocks, H x W patch grid, N = H * W, K visible.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hjepa.distributed import Share
from hjepa.schema import Config


class MaskingConfig(Config):
    """Which patches are hidden and predicted (multi-block masking, Assran et al. 2023)."""

    num_masks: int = Field(default=4, ge=1, le=16)
    """Target blocks per image; all of their patches are predicted."""
    mask_scale: tuple[float, float] = (0.15, 0.2)
    """Range of one target block's area, as a share of the patch grid; 0 < low <= high <= 1."""
    aspect_ratio: tuple[float, float] = (0.75, 1.5)
    """Range of a target block's height over its width; 0 < low <= high."""
    num_context_masks: int = Field(default=1, ge=1, le=16)
    """Context blocks per image; what is visible is their union less the target blocks."""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """Range of one context block's area, as a share of the patch grid; 0 < low <= high <= 1."""
    min_keep: int = Field(default=4, ge=1)
    """Patches that stay visible at the least, where the blocks would hide more."""
    strategy: Literal["global_only", "global_with_local_context", "cross_crop_prediction"] = "global_only"
    """What the masked patches of a global crop are predicted from: its visible patches; those and the
    image's local crops; or the local crops alone. Without local crops it is the first."""
    max_keep: int | None = Field(default=None, ge=1)
    """Patches that stay visible at the most, min_keep or more; an image gives up random ones, which are
    not predicted either. null: no limit."""
    reference_offsets: bool = False
    """Place blocks as the published I-JEPA code does, whose offsets never reach the last row or column."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name, top in (("mask_scale", 1.0), ("aspect_ratio", float("inf")), ("context_scale", 1.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= top:
                limit = " <= 1" if top == 1 else ""
                raise ValueError(f"{name} is [{low:g}, {high:g}]; must be 0 < low <= high{limit}")
        if self.max_keep is not None and self.max_keep < self.min_keep:
            raise ValueError(f"max_keep {self.max_keep} is less than min_keep {self.min_keep}")
        return self


@dataclass(frozen=True)
class Masks:
    """What a batch's images show and what is to be predicted of them."""

    visible_BK: Tensor
    """Indices of the visible patches, ascending, int64; K is the same for all images."""
    target_BN: Tensor
    """True where a patch is to be predicted; never a visible one."""
    blocks_BMN: Tensor | None = None
    """The same for each target block, which may overlap; None: not told apart."""

    def chunks(self, sizes: list[int]) -> list["Masks"]:
        """The same masks cut along the batch."""
        visible, target = self.visible_BK.split(sizes), self.target_BN.split(sizes)
        blocks = [None] * len(sizes) if self.blocks_BMN is None else self.blocks_BMN.split(sizes)
        return [Masks(*parts) for parts in zip(visible, target, blocks, strict=True)]

    def of(self, share: Share) -> "Masks":
        """The masks of a process's own images."""
        blocks = None if self.blocks_BMN is None else share.take(self.blocks_BMN)
        return Masks(share.take(self.visible_BK), share.take(self.target_BN), blocks)

    def to(self, device: torch.device) -> "Masks":
        """The same masks on `device`."""
        blocks = None if self.blocks_BMN is None else self.blocks_BMN.to(device)
        return Masks(self.visible_BK.to(device), self.target_BN.to(device), blocks)


def sample_masks(
    config: MaskingConfig, batch: int, grid: tuple[int, int], generator: torch.Generator
) -> Masks:
    """Masks for `batch` images of `grid` patches, on the generator's device.

    Every image keeps the same number of patches, the fewest that any image's blocks leave, so that
    the visible tokens form a tensor; whoever has more gives up random ones. Terminates on every
    grid: where the targets would leave fewer than `min_keep` patches, they shrink.
    """
    height, width = grid
    tokens = height * width
    short = int(config.reference_offsets)

    def blocks(count: int, scale: tuple[float, float], aspect: tuple[float, float]) -> Tensor:
        return sample_blocks((batch, count), scale, aspect, grid, generator, short=short).flatten(2)

    blocks_BMN = blocks(config.num_masks, config.mask_scale, config.aspect_ratio)
    target_BN = blocks_BMN.any(1)
    context_BN = blocks(config.num_context_masks, config.context_scale, (1.0, 1.0)).any(1) & ~target_BN

    fewest = int(context_BN.sum(1).min())
    keep = min(max(fewest, config.min_keep), config.max_keep or tokens, tokens - 1)
    # Context first, then what is in no block, then targets; at random within each.
    rank_BN = torch.rand(batch, tokens, generator=generator, device=generator.device)
    rank_BN = rank_BN + context_BN.float() - target_BN.float()
    visible_BK = rank_BN.topk(keep, dim=1).indices.sort(dim=1).values
    hidden_BN = torch.ones_like(target_BN).scatter(1, visible_BK, False)
    return Masks(visible_BK, target_BN & hidden_BN, blocks_BMN & hidden_BN[:, None])


def sample_blocks(
    shape: tuple[int, int],
    scale: tuple[float, float],
    aspect: tuple[float, float],
    grid: tuple[int, int],
    generator: torch.Generator,
    short: int = 0,
) -> Tensor:
    """Random rectangles as masks (*shape, H, W), True inside.

    Area (a share of the grid) and aspect ratio are drawn uniformly and independently. A rectangle
    may stand anywhere on the grid; with `short` = 1 never on its last row and column.
    """
    height, width = grid
    device = generator.device
    # One call for all four draws, last axis: area, aspect, top, left.
    draws = torch.rand(*shape, 4, generator=generator, device=device)
    area = (height * width * (scale[0] + draws[..., 0] * (scale[1] - scale[0]))).floor()
    ratio = aspect[0] + draws[..., 1] * (aspect[1] - aspect[0])
    block_h = (area * ratio).sqrt().round().clamp(1, height - short)
    block_w = (area / ratio).sqrt().round().clamp(1, width - short)
    top = (draws[..., 2] * (height - short - block_h + 1)).floor()
    left = (draws[..., 3] * (width - short - block_w + 1)).floor()
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    in_rows = (rows >= top[..., None]) & (rows < (top + block_h)[..., None])
    in_columns = (columns >= left[..., None]) & (columns < (left + block_w)[..., None])
    return in_rows[..., :, None] & in_columns[..., None, :]
