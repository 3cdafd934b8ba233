"""Hierarchy of feature grids: pooling by 2^level in both directions, and a feature pyramid on top.

Shape letters: B images, D width, F pyramid width, H x W grid of a level.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hjepa.schema import Config


class FpnConfig(Config):
    """Feature pyramid over the levels (Lin et al. 2017)."""

    use_fpn: bool = False
    """Fuse coarser levels into finer ones before the loss."""
    feature_dim: int | None = Field(default=None, ge=1)
    """Width of every level of the pyramid; null: the encoder's."""
    fusion_method: Literal["add", "concat"] = "add"
    """How a level takes in the upsampled coarser one: sum, or concatenation and a 1x1 convolution."""

    def inert(self) -> dict[str, str]:
        if self.use_fpn:
            return {}
        reason = "model.fpn.use_fpn is false"
        return {"feature_dim": reason, "fusion_method": reason}


def pool(grid_BDHW: Tensor, level: int) -> Tensor:
    """Mean over 2^level x 2^level cells; cells on the far edges may be smaller."""
    if level == 0:
        return grid_BDHW
    return F.avg_pool2d(grid_BDHW, 2**level, ceil_mode=True, count_include_pad=False)


def grid_sides(side: int, levels: int) -> list[int]:
    """Side of each level's grid, finest first."""
    return [-(-side // 2**level) for level in range(levels)]


class Pyramid(nn.Module):
    """Grid (B, D, H, W) to a list of grids, finest first; with FPN all of width F.

    Lateral 1x1, top-down upsampling, fusion, 3x3 smoothing. Borders are replicated, so that a
    constant grid stays constant.
    """

    def __init__(self, config: FpnConfig, levels: int, dim: int):
        super().__init__()
        self.levels = levels
        self.use_fpn = config.use_fpn
        self.out_dim = (config.feature_dim or dim) if config.use_fpn else dim
        if not config.use_fpn:
            return
        width = self.out_dim
        self.lateral = nn.ModuleList(nn.Conv2d(dim, width, 1) for _ in range(levels))
        self.fuse = nn.ModuleList(
            nn.Conv2d(2 * width, width, 1) if config.fusion_method == "concat" else Add()
            for _ in range(levels - 1)
        )
        self.smooth = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate") for _ in range(levels)
        )

    def forward(self, grid_BDHW: Tensor) -> list[Tensor]:
        pooled = [pool(grid_BDHW, level) for level in range(self.levels)]
        if not self.use_fpn:
            return pooled
        fused = [lateral(grid) for lateral, grid in zip(self.lateral, pooled, strict=True)]
        for level in reversed(range(self.levels - 1)):
            coarse = F.interpolate(fused[level + 1], size=fused[level].shape[-2:], mode="nearest")
            fused[level] = self.fuse[level](torch.cat([fused[level], coarse], dim=1))
        return [smooth(grid) for smooth, grid in zip(self.smooth, fused, strict=True)]


class Add(nn.Module):
    """Sum of the two halves of the channels."""

    def forward(self, pair_B2FHW: Tensor) -> Tensor:
        fine, coarse = pair_B2FHW.chunk(2, dim=1)
        return fine + coarse
