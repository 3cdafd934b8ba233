"""Predictor: from the visible patches' tokens to features of every patch.

Shape letters: B images, N patches of the grid, K visible patches, M target blocks, P places to predict
in a pass, F further tokens, D encoder width, W predictor width.
"""

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from hjepa.block import Block, BlockSpec, init_weights, run_blocks
from hjepa.encoder import sincos_at, sincos_positions
from hjepa.schema import Config


class PredictorConfig(Config):
    """Transformer narrower than the encoder that fills in what is masked."""

    mode: Literal["union", "per_block"] = "union"
    """union: one pass predicts all that is hidden, which sees where the other blocks are. per_block: a pass
    for each target block, which sees the context and that block's places only, as in I-JEPA (Assran et al.
    2023), and one for what is hidden in no block; about twice the predictor's time."""

    embed_dim: int | None = Field(default=None, ge=8, le=65536)
    """Width of a token, a multiple of num_heads; null: half the encoder's, rounded up to
    such a multiple."""
    depth: int = Field(default=2, ge=1, le=1024)
    """Number of blocks."""
    num_heads: int = Field(default=4, ge=1, le=65536)
    """Attention heads."""
    mlp_ratio: float = Field(default=4.0, gt=0, le=1024)
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
    """Predicts the whole grid, visible patches included, so that it can be pooled."""

    def __init__(self, config: PredictorConfig, encoder_dim: int, grid: tuple[int, int], flash: bool = True):
        super().__init__()
        width = config.width(encoder_dim)
        self.recompute = False
        self.per_block = config.mode == "per_block"
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
        self,
        tokens_BKD: Tensor,
        visible_BK: Tensor,
        blocks_BMN: Tensor | None = None,
        further: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Predicted features (B, N, D) from the tokens of the patches at `visible_BK`.

        `blocks_BMN` is True inside each target block, and False where a patch is visible. Where it is
        None, all that is hidden is one block. `further` are tokens (B, F, D) of what stands anywhere else,
        and their places (B, F, 2): row and column in patches, which need be neither whole nor on the grid.
        """
        context_BKW = self.embed(tokens_BKD)
        further_BFW = None
        if further is not None:
            further_BFW = self.embed(further[0]) + sincos_at(further[1], context_BKW.shape[-1])
        if self.per_block and blocks_BMN is not None:
            return self.project(self._by_block(context_BKW, visible_BK, blocks_BMN, further_BFW))
        batch, width = len(context_BKW), context_BKW.shape[-1]
        index = visible_BK[..., None].expand(-1, -1, width)
        masked_BNW = self.mask_token.to(context_BKW.dtype).expand(batch, len(self.positions_NW), width)
        x_BNW = masked_BNW.scatter(1, index, context_BKW) + self.positions_NW
        return self.project(self.norm(self._run(x_BNW, further_BFW)))

    def _run(self, x_BSW: Tensor, further_BFW: Tensor | None, seen: Tensor | None = None) -> Tensor:
        """The tokens after all blocks, which see the further ones too."""
        if further_BFW is None:
            return run_blocks(self.blocks, x_BSW, None, self.recompute, seen)
        if seen is not None:
            seen = F.pad(seen, (0, further_BFW.shape[1]), value=True)
        together = torch.cat([x_BSW, further_BFW], dim=1)
        return run_blocks(self.blocks, together, None, self.recompute, seen)[:, : x_BSW.shape[1]]

    def _by_block(
        self, context_BKW: Tensor, visible_BK: Tensor, blocks_BMN: Tensor, further_BFW: Tensor | None
    ) -> Tensor:
        """Every patch's token, normalised (B, N, W), averaged over the passes that hold it."""
        hidden_BN = torch.ones_like(blocks_BMN[:, 0]).scatter(1, visible_BK, False)
        rest_BN = hidden_BN & ~blocks_BMN.any(1)
        # The rest is larger than a block: in a call of its own, it does not pad them.
        sets = [(places, int(places.sum(-1).max())) for places in (blocks_BMN, rest_BN[:, None])]
        passes = [
            self._passes(context_BKW, visible_BK, *places, further_BFW) for places in sets if places[1] > 0
        ]
        index_BS1, tokens_BSW, held_BS1 = (torch.cat(parts, dim=1) for parts in zip(*passes, strict=True))
        shape_BNW = len(context_BKW), len(self.positions_NW), tokens_BSW.shape[-1]
        index_BSW = index_BS1.expand_as(tokens_BSW)
        sum_BNW = tokens_BSW.new_zeros(shape_BNW).scatter_add(1, index_BSW, tokens_BSW * held_BS1)
        count_BN1 = tokens_BSW.new_zeros(*shape_BNW[:2], 1).scatter_add(1, index_BS1, held_BS1)
        return sum_BNW / count_BN1

    def _passes(
        self,
        context_BKW: Tensor,
        visible_BK: Tensor,
        places_BMN: Tensor,
        largest: int,
        further_BFW: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass for each of M sets of at most `largest` places, S = M * (K + P) tokens an image.

        Gives each token's patch (B, S, 1), the token (B, S, W), and 1 where it counts, 0 where it only
        fills up: sets differ in size, and the pass of an empty one says nothing.
        """
        batch, passes, _ = places_BMN.shape
        keep, width = context_BKW.shape[1:]
        size_BM1 = places_BMN.sum(-1, keepdim=True)
        place_BMP = places_BMN.int().argsort(dim=-1, descending=True, stable=True)[..., :largest]
        real_BMP = torch.arange(largest, device=size_BM1.device) < size_BM1
        patch_BMS = torch.cat([visible_BK[:, None].expand(-1, passes, -1), place_BMP], dim=-1)
        seen_BMS = F.pad(real_BMP, (keep, 0), value=True)

        context_BMKW = context_BKW[:, None].expand(-1, passes, -1, -1)
        mask_BMPW = self.mask_token.to(context_BKW.dtype).expand(batch, passes, largest, width)
        x_BMSW = torch.cat([context_BMKW, mask_BMPW], dim=2) + self.positions_NW[patch_BMS]
        seen = seen_BMS.flatten(0, 1)[:, None, None]
        if further_BFW is not None:
            further_BFW = further_BFW.repeat_interleave(passes, dim=0)
        tokens = self._run(x_BMSW.flatten(0, 1), further_BFW, seen)
        held_BMS = seen_BMS & (size_BM1 > 0)
        tokens_BSW = self.norm(tokens).view(batch, -1, width)
        return (
            patch_BMS.flatten(1)[..., None],
            tokens_BSW,
            held_BMS.flatten(1)[..., None].to(tokens_BSW.dtype),
        )
