"""How large a run is, from its config alone: parameters, tokens, and an estimate of memory."""

from dataclasses import dataclass

import torch

from hjepa.config import RunConfig
from hjepa.masking import sample_masks
from hjepa.model import HJEPA

# Values kept for the backward pass by a block, for each token and unit of width, from the operations of
# `hjepa.encoder.Block`: norms 2, qkv input and output 4, attention output and projection 2, residuals 2,
# and for each unit of the hidden layer the input and output of the activation, 2.
_KEPT, _KEPT_HIDDEN = 10, 2
# Copies of a batch's images alive at once: resampled, normalised and cut into patches, for two encoders.
_IMAGES = 5
# Of every level's features: predicted, target and normalised, their difference and gradients.
_FEATURES = 8
_MASK_SAMPLES = 256


@dataclass(frozen=True)
class Size:
    """Counts of a run."""

    encoder: int
    """Parameters of the context encoder."""
    predictor: int
    others: int
    """Parameters of pyramid and heads."""
    target: int
    """Parameters of the target, which are not trained."""
    tokens: int
    """Patches of an image."""
    visible: float
    """Of these, on average, what the context encoder sees of a batch of 256 images."""
    predicted: float
    """Of these, on average, what is to be predicted."""
    weights_bytes: int
    """Weights, gradients and the optimizer's moments."""
    activation_bytes: int
    """What a micro-batch takes at its peak, activations kept for the backward pass above all."""

    def lines(self) -> list[str]:
        """For people."""
        trained = self.encoder + self.predictor + self.others
        return [
            f"parameters: encoder {self.encoder:,}, predictor {self.predictor:,}, pyramid and heads "
            f"{self.others:,}; {trained:,} trained, {self.target:,} in the target",
            f"tokens of an image: {self.tokens}, of which {self.visible:.0f} visible and "
            f"{self.predicted:.0f} to predict, on average",
            f"memory, estimated: {_gb(self.weights_bytes)} for weights, gradients and moments, "
            f"{_gb(self.activation_bytes)} for a micro-batch at its peak",
        ]


def measure(config: RunConfig) -> Size:
    """Sizes of a run; nothing is allocated but masks for 256 images."""
    with torch.device("meta"):
        model = HJEPA(config.model, config.data.image_size)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    moments = 2 if config.training.optimizer == "adamw" else 1
    masks = sample_masks(config.masking, _MASK_SAMPLES, model.grid, torch.Generator().manual_seed(0))
    tokens = model.grid[0] * model.grid[1]
    visible = masks.visible_BK.shape[1]
    return Size(
        encoder=counts["encoder"],
        predictor=counts["predictor"],
        others=trained - counts["encoder"] - counts["predictor"],
        target=everything - trained,
        tokens=tokens,
        visible=visible,
        predicted=masks.target_BN.float().sum(1).mean().item(),
        weights_bytes=4 * (everything + (1 + moments) * trained),
        activation_bytes=_activations(config, tokens, visible),
    )


def _activations(config: RunConfig, tokens: int, visible: int) -> int:
    """Peak bytes of a micro-batch: what is kept for the backward pass, and what passes through beside it.

    Beside measured peaks of ViT-Ti/16 on CPU (`benchmarks/features.py`) this was off by at most 1.4 times.
    """
    shape, predictor = config.model.shape, config.model.predictor
    width = predictor.width(shape.embed_dim)
    views = 2 if config.loss.use_ntxent else 1
    blocks = [
        (views * shape.depth, visible, shape.embed_dim, shape.mlp_ratio),
        (predictor.depth, tokens, width, predictor.mlp_ratio),
    ]
    whole = [depth * length * dim * (_KEPT + _KEPT_HIDDEN * ratio) for depth, length, dim, ratio in blocks]
    kept = sum(whole)
    if config.training.use_gradient_checkpointing:
        # The input of every block, and one block at a time in whole.
        kept = sum(depth * length * dim for depth, length, dim, _ in blocks)
        kept += max(size / depth for size, (depth, *_) in zip(whole, blocks, strict=True))
    pyramid = sum(tokens / 4**level for level in range(config.model.num_hierarchies))
    features = _FEATURES * pyramid * shape.embed_dim
    target = tokens * shape.embed_dim * (_KEPT + _KEPT_HIDDEN * shape.mlp_ratio)
    half = 2 if config.training.use_amp else 4
    images = 4 * views * _IMAGES * 3 * config.data.image_size**2
    return int(config.data.batch_size * (half * (kept + target) + 4 * features + images))


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
