"""H-JEPA, composed of encoder, predictor and pyramid.

Shape letters: B images, N patches of the grid, K visible patches, D width, L positions of a level.
"""

import copy
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from hjepa.data import LocalCrops
from hjepa.encoder import Encoder, EncoderConfig, init_weights
from hjepa.masking import Masks
from hjepa.predictor import Predictor, PredictorConfig
from hjepa.pyramid import FpnConfig, Pyramid, pool
from hjepa.schema import Config


class EmaConfig(Config):
    """How the target encoder follows the context encoder, after each optimizer step."""

    momentum: float = Field(default=0.996, ge=0, le=1)
    """Share of itself that the target keeps in a step, at the start."""
    momentum_end: float = Field(default=1.0, ge=0, le=1)
    """The same at the end of the rise."""
    momentum_warmup_epochs: float | None = Field(default=None, ge=0)
    """Epochs over which momentum goes linearly to momentum_end; null: the whole run."""

    def inert(self) -> dict[str, str]:
        same = self.momentum == self.momentum_end
        return {"momentum_warmup_epochs": "momentum equals momentum_end"} if same else {}


class ModelConfig(EncoderConfig):
    """Encoder, predictor, hierarchy and target."""

    num_hierarchies: int = Field(default=3, ge=1, le=4)
    """Levels; level l pools the patch grid by 2^l in both directions."""
    predictor: PredictorConfig = PredictorConfig()
    ema: EmaConfig = EmaConfig()
    fpn: FpnConfig = FpnConfig()

    @model_validator(mode="after")
    def _predictor_has_a_hidden_layer(self) -> Self:
        width, ratio = self.predictor.width(self.shape.embed_dim), self.predictor.mlp_ratio
        if int(width * ratio) < 1:
            raise ValueError(f"predictor.mlp_ratio {ratio:g} of its width {width} leaves no hidden layer")
        return self

    def inert(self) -> dict[str, str]:
        found = super().inert()
        if self.num_hierarchies == 1:
            found["fpn.fusion_method"] = "model.num_hierarchies is 1: nothing to fuse"
        return found


@dataclass(frozen=True)
class Prediction:
    """What the model says of a batch, level by level, finest first."""

    predicted: list[Tensor]
    """Predicted features of each level, (B, L, D)."""
    target: list[Tensor]
    """Target features of each level, (B, L, D), normalised over D, without gradient."""
    context_BD: Tensor
    """Context tokens, averaged over the visible patches."""
    target_BD: Tensor
    """Target tokens, averaged over all patches, without gradient."""
    second_BD: Tensor | None = None
    """As context_BD, of the second view, where there is one."""
    local_BVD: Tensor | None = None
    """Context tokens of each image's local crops, averaged over all of their patches."""


class HJEPA(nn.Module):
    """Predicts the EMA target's features of masked patches from the visible ones, at every level."""

    def __init__(self, config: ModelConfig, image_size: int):
        super().__init__()
        dim = config.shape.embed_dim
        self.encoder = Encoder(config, image_size)
        self.grid = self.encoder.grid
        self.predictor = Predictor(config.predictor, dim, self.grid, config.use_flash_attention)
        self.pyramid = Pyramid(config.fpn, config.num_hierarchies, dim)
        # Without FPN the finest level is what the predictor puts out; a further layer adds nothing.
        self.heads = nn.ModuleList(
            nn.Linear(self.pyramid.out_dim, self.pyramid.out_dim)
            if level or config.fpn.use_fpn
            else nn.Identity()
            for level in range(config.num_hierarchies)
        )
        self.heads.apply(init_weights)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.target_pyramid = copy.deepcopy(self.pyramid).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; the target stays in the latter, so that nothing in it is random."""
        super().train(mode)
        self.target_encoder.eval()
        self.target_pyramid.eval()
        return self

    def forward(
        self,
        images_BCHW: Tensor,
        masks: Masks,
        second_BCHW: Tensor | None = None,
        local: LocalCrops | None = None,
    ) -> Prediction:
        """Predictions and targets of a batch of normalised float images.

        `second_BCHW` is another view of the same images, of which only the visible patches are encoded.
        `local` are crops of images of which `images_BCHW` holds all global crops, one image after another.
        """
        context_BKD = self.encoder(images_BCHW, masks.visible_BK)
        if local is None:
            local_BVD, predicted_BND = None, self.predictor(context_BKD, masks.visible_BK)
        else:
            local_BVPD = self.encoder(local.images_BVCHW.flatten(0, 1)).unflatten(
                0, local.images_BVCHW.shape[:2]
            )
            local_BVD = local_BVPD.mean(2)
            predicted_BND = self._predict_beside(local, local_BVPD, context_BKD, masks)
        predicted = [
            head(as_tokens(grid))
            for head, grid in zip(self.heads, self.pyramid(self.as_grid(predicted_BND)), strict=True)
        ]
        with torch.no_grad():
            target_BND = self.target_encoder(images_BCHW)
            levels = self.target_pyramid(self.as_grid(_normalize(target_BND)))
            target = [_normalize(as_tokens(grid)) for grid in levels]
        second_BD = None if second_BCHW is None else self.encoder(second_BCHW, masks.visible_BK).mean(1)
        return Prediction(predicted, target, context_BKD.mean(1), target_BND.mean(1), second_BD, local_BVD)

    def _predict_beside(
        self, local: LocalCrops, local_BVPD: Tensor, context_BKD: Tensor, masks: Masks
    ) -> Tensor:
        """What the predictor says of the grid where it may see local crops, (B, N, D)."""
        if local.places_SP2 is None:
            return self.predictor(context_BKD, masks.visible_BK)
        keep = 0 if local.alone else context_BKD.shape[1]
        global_crops = len(context_BKD) // len(local_BVPD)
        further_BPD = local_BVPD.flatten(1, 2).repeat_interleave(global_crops, dim=0)
        return self.predictor(
            context_BKD[:, :keep], masks.visible_BK[:, :keep], (further_BPD, local.places_SP2)
        )

    def level_weights(self, masks: Masks) -> list[Tensor]:
        """Weight of each position in its level's loss, (B, L): the share of its patches to predict."""
        target_B1HW = self.as_grid(masks.target_BN[..., None].float())
        return [pool(target_B1HW, level).flatten(1) for level in range(self.pyramid.levels)]

    def as_grid(self, tokens_BND: Tensor) -> Tensor:
        """Tokens of the whole grid as an image (B, D, H, W)."""
        return tokens_BND.transpose(1, 2).unflatten(2, self.grid)

    @torch.no_grad()
    def features(self, images_BCHW: Tensor) -> Tensor:
        """Features of whole images, (B, D) float32: the target encoder's tokens, averaged."""
        return self.target_encoder(images_BCHW).float().mean(1)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target = momentum * target + (1 - momentum) * online, for encoder and pyramid."""
        followers: list[Tensor] = [*self.target_encoder.parameters(), *self.target_pyramid.parameters()]
        leaders: list[Tensor] = [*self.encoder.parameters(), *self.pyramid.parameters()]
        torch._foreach_lerp_(followers, leaders, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]

    def set_recompute(self, recompute: bool) -> None:
        """Trade time for memory: recompute activations in the backward pass."""
        self.encoder.recompute = self.predictor.recompute = recompute


def as_tokens(grid_BDHW: Tensor) -> Tensor:
    """An image as tokens, (B, H * W, D)."""
    return grid_BDHW.flatten(2).transpose(1, 2)


def _normalize(x_BND: Tensor) -> Tensor:
    return F.layer_norm(x_BND, x_BND.shape[-1:])
