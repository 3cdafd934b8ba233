"""H-JEPA, composed of encoder, predictor and pyramid.

Shape letters: B images, N patches of the grid, K visible patches, D width, L positions of a level.
"""

import copy
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from hjepa.block import init_weights
from hjepa.data import LocalCrops
from hjepa.encoder import Encoder, EncoderConfig
from hjepa.masking import Masks
from hjepa.predictor import Predictor, PredictorConfig
from hjepa.pretrained import load_pretrained
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
    use_target_encoder: bool = True
    """Predict the features of a second encoder, which follows by EMA and gets no gradient. False: those of
    the encoder itself on the whole image, with gradient on both sides (LeJEPA, Balestriero & LeCun 2025);
    needs loss.use_sigreg or loss.use_vicreg, which keep it from collapsing."""
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
        if not self.use_target_encoder:
            found["ema"] = "model.use_target_encoder is false: nothing follows"
        return found


@dataclass(frozen=True)
class Prediction:
    """What the model says of a batch, level by level, finest first."""

    predicted: list[Tensor]
    """Predicted features of each level, (B, L, D)."""
    target: list[Tensor]
    """Target features of each level, (B, L, D), normalised over D; without gradient where the target is
    an encoder of its own."""
    context_BD: Tensor
    """Context tokens, averaged over the visible patches."""
    target_BD: Tensor
    """Target tokens, averaged over all patches; with gradient as `target`."""
    context_BKD: Tensor
    """Context tokens of the visible patches."""
    target_BND: Tensor
    """Target tokens of all patches; with gradient as `target`."""
    visible_BK: Tensor
    """Indices of the visible patches."""
    second_BD: Tensor | None = None
    """Tokens of the second view, averaged, where there is one."""
    local_BVPD: Tensor | None = None
    """Context tokens of all patches of each image's local crops."""


def join(parts: list[Prediction]) -> Prediction:
    """What the model says of a batch, from what it says of its parts, in order."""

    def joined(values: list[Any]) -> Any:
        if isinstance(values[0], list):
            return [torch.cat(level) for level in zip(*values, strict=True)]
        return None if values[0] is None else torch.cat(values)

    names = vars(parts[0])
    return Prediction(**{name: joined([getattr(part, name) for part in parts]) for name in names})


class HJEPA(nn.Module):
    """Predicts the target's features of masked patches from the visible ones, at every level.

    The target is an encoder that follows by EMA or, without one, the encoder itself.
    """

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
        self.target_encoder: Encoder | None = None
        self.target_pyramid: Pyramid | None = None
        if config.use_target_encoder:
            self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
            self.target_pyramid = copy.deepcopy(self.pyramid).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; the target stays in the latter, so that nothing in it is random."""
        super().train(mode)
        for target in (self.target_encoder, self.target_pyramid):
            if target is not None:
                target.eval()
        return self

    def forward(
        self,
        images_BCHW: Tensor,
        masks: Masks,
        second_BCHW: Tensor | None = None,
        second_on_context: bool = True,
        local: LocalCrops | None = None,
        predict: bool = True,
    ) -> Prediction:
        """Predictions and targets of a batch of normalised float images.

        `second_BCHW` is another view of the same images, of which only the visible patches are encoded;
        with `second_on_context` false all of them, by the target encoder and without gradient.
        `local` are crops of images of which `images_BCHW` holds all global crops, one image after another.
        With `predict` false nothing is predicted: predictor, pyramid and heads are left out, and there are
        no levels.
        """
        context_BKD = self.encoder(images_BCHW, masks.visible_BK)
        local_BVPD = None if local is None else self._local_tokens(local)
        predicted: list[Tensor] = []
        if predict:
            predicted_BND = self._predict(context_BKD, masks, local, local_BVPD)
            levels = self.pyramid(self.as_grid(predicted_BND))
            predicted = [head(as_tokens(grid)) for head, grid in zip(self.heads, levels, strict=True)]
        target_BND, target = self._target(images_BCHW, predict)
        second_BD = None
        if second_BCHW is not None and second_on_context:
            second_BD = self.encoder(second_BCHW, masks.visible_BK).mean(1)
        elif second_BCHW is not None:
            assert self.target_encoder is not None
            with torch.no_grad():
                second_BD = self.target_encoder(second_BCHW).mean(1)
        return Prediction(
            predicted,
            target,
            context_BKD.mean(1),
            target_BND.mean(1),
            context_BKD,
            target_BND,
            masks.visible_BK,
            second_BD,
            local_BVPD,
        )

    def _local_tokens(self, local: LocalCrops) -> Tensor:
        """Tokens of all patches of each image's local crops, (B, V, P, D)."""
        return self.encoder(local.images_BVCHW.flatten(0, 1)).unflatten(0, local.images_BVCHW.shape[:2])

    def _predict(
        self, context_BKD: Tensor, masks: Masks, local: LocalCrops | None, local_BVPD: Tensor | None
    ) -> Tensor:
        """What the predictor says of the grid, (B, N, D), from the visible patches and from local crops."""
        if local is None or local_BVPD is None or local.places_SP2 is None:
            return self.predictor(context_BKD, masks.visible_BK, masks.blocks_BMN)
        keep = 0 if local.alone else context_BKD.shape[1]
        global_crops = len(context_BKD) // len(local_BVPD)
        further_BPD = local_BVPD.flatten(1, 2).repeat_interleave(global_crops, dim=0)
        further = (further_BPD, local.places_SP2)
        return self.predictor(context_BKD[:, :keep], masks.visible_BK[:, :keep], masks.blocks_BMN, further)

    def _target(self, images_BCHW: Tensor, predict: bool) -> tuple[Tensor, list[Tensor]]:
        """Tokens of whole images (B, N, D), and the features of each level that are to be predicted."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.target_encoder is None):
            encoder = self.encoder if self.target_encoder is None else self.target_encoder
            tokens_BND = encoder(images_BCHW)
            if not predict:
                return tokens_BND, []
            grid_BDHW = self.as_grid(_normalize(tokens_BND))
            if self.target_pyramid is not None:
                levels = self.target_pyramid(grid_BDHW)
            else:
                # Trained on both sides, the pyramid could put out one and the same vector, and no
                # regularizer would see it: those look at the encoder's features.
                fixed = {name: value.detach() for name, value in self.pyramid.named_parameters()}
                levels = functional_call(self.pyramid, fixed, (grid_BDHW,))
            return tokens_BND, [_normalize(as_tokens(grid)) for grid in levels]

    def level_weights(self, masks: Masks) -> list[Tensor]:
        """Weight of each position in its level's loss, (B, L): the share of its patches to predict."""
        target_B1HW = self.as_grid(masks.target_BN[..., None].float())
        return [pool(target_B1HW, level).flatten(1) for level in range(self.pyramid.levels)]

    def as_grid(self, tokens_BND: Tensor) -> Tensor:
        """Tokens of the whole grid as an image (B, D, H, W)."""
        return tokens_BND.transpose(1, 2).unflatten(2, self.grid)

    @torch.no_grad()
    def features(self, images_BCHW: Tensor) -> Tensor:
        """Features of whole images, (B, D) float32: the target's tokens, averaged."""
        encoder = self.encoder if self.target_encoder is None else self.target_encoder
        return encoder(images_BCHW).float().mean(1)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target = momentum * target + (1 - momentum) * online, for encoder and pyramid.

        Nothing where the model has no target encoder.
        """
        if self.target_encoder is None or self.target_pyramid is None:
            return
        followers: list[Tensor] = [*self.target_encoder.parameters(), *self.target_pyramid.parameters()]
        leaders: list[Tensor] = [*self.encoder.parameters(), *self.pyramid.parameters()]
        torch._foreach_lerp_(followers, leaders, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]

    def load_pretrained(self, config: ModelConfig) -> list[str]:
        """Start from the weights in the file `config.pretrained`, the target too; see `pretrained`."""
        notes = load_pretrained(self.encoder, config)
        self.update_target(0.0)
        return notes

    def set_recompute(self, recompute: bool) -> None:
        """Trade time for memory: recompute activations in the backward pass."""
        self.encoder.recompute = self.predictor.recompute = recompute


def as_tokens(grid_BDHW: Tensor) -> Tensor:
    """An image as tokens, (B, H * W, D)."""
    return grid_BDHW.flatten(2).transpose(1, 2)


def _normalize(x_BND: Tensor) -> Tensor:
    return F.layer_norm(x_BND, x_BND.shape[-1:])
