"""Predictor: from the visible patches' tokens to features of every patch.

Shape letters: B images, N patches of the grid, K visible patches, P further places, D encoder width,
W predictor width.
"""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hjepa.encoder import Block, BlockSpec, init_weights, run_blocks, sincos_at, sincos_positions
from hjepa.schema import Config


class PredictorConfig(Config):
    """Transformer narrower than the encoder that fills in what is masked."""

    embed_dim: int | None = Field(default=None, ge=8)
    """Width of a token, a multiple of num_heads; null: half the encoder's, rounded up to
    such a multiple."""
    depth: int = Field(default=2, ge=1)
    """Number of blocks."""
    num_heads: int = Field(default=4, ge=1)
    """Attention heads."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Width of a block's hidden layer over that of a token."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of what attention and both layers of the MLP put out that is zeroed in training."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.embed_dim is not None and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is no multiple of num_heads {self.num_heads}")
        return self

    def width(self, encoder_dim: int) -> int:
        """Width of a token beside an encoder of width `encoder_dim`."""
        if self.embed_dim is not None:
            return self.embed_dim
        half = -(-encoder_dim // 2)
        return -(-half // self.num_heads) * self.num_heads


class Predictor(nn.Module):
    """Predicts the whole grid at once, visible patches included, so that it can be pooled."""

    def __init__(self, config: PredictorConfig, encoder_dim: int, grid: tuple[int, int], flash: bool = True):
        super().__init__()
        width = config.width(encoder_dim)
        self.recompute = False
        self.embed = nn.Linear(encoder_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("positions_NW", sincos_positions(grid, width), persistent=False)
        self.positions_NW: Tensor
        spec = BlockSpec(
            width,
            config.num_heads,
            config.mlp_ratio,
            flash=flash,
            dropout=config.dropout,
            qkv_bias=config.qkv_bias,
        )
        self.blocks = nn.ModuleList(Block(spec) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.project = nn.Linear(width, encoder_dim)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, tokens_BKD: Tensor, visible_BK: Tensor, further: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Predicted features (B, N, D) from the tokens of the patches at `visible_BK`.

        `further` are tokens (B, P, D) of what stands anywhere else, and their places (B, P, 2): row and
        column in patches, which need be neither whole nor on the grid.
        """
        context_BKW = self.embed(tokens_BKD)
        batch, width = len(context_BKW), context_BKW.shape[-1]
        index = visible_BK[..., None].expand(-1, -1, width)
        masked_BNW = self.mask_token.to(context_BKW.dtype).expand(batch, len(self.positions_NW), width)
        x_BNW = masked_BNW.scatter(1, index, context_BKW) + self.positions_NW
        if further is not None:
            tokens_BPD, places_BP2 = further
            x_BNW = torch.cat([x_BNW, self.embed(tokens_BPD) + sincos_at(places_BP2, width)], dim=1)
        out_BNW = run_blocks(self.blocks, x_BNW, None, self.recompute)[:, : len(self.positions_NW)]
        return self.project(self.norm(out_BNW))
