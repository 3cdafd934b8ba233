"""How large a run is, from its config alone: parameters, tokens, and an estimate of memory."""

import statistics
from dataclasses import dataclass

import torch

from hjepa.config import RunConfig
from hjepa.masking import Masks, sample_masks
from hjepa.model import HJEPA

# Values kept for the backward pass by a block, for each token and unit of width, from the operations of
# `hjepa.encoder.Block`: norms 2, qkv input and output 4, attention output and projection 2, residuals 2,
# and for each unit of the hidden layer the input and output of the activation, 2.
_KEPT, _KEPT_HIDDEN = 10, 2
# Copies of a batch's images alive at once: resampled, normalised and cut into patches, for two encoders.
_IMAGES = 5
# Of every level's features: predicted, target and normalised, their difference and gradients.
_FEATURES = 8
_MASK_SAMPLES = 1024
EVALUATION_IMAGES, EVALUATION_BYTES = 512, 2**26
"""Most images that go through an encoder at once where nothing is learnt, and most bytes of the largest of
their tensors in float32: enough to keep a GPU busy, and little beside what a small micro-batch takes."""


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
    """Of these, on average, what the context encoder sees. The larger the step, the fewer: all its images
    show as many as the one of which the least is left."""
    predicted: float
    """Of these, on average, what is to be predicted."""
    weights_bytes: int
    """Weights, gradients and the optimizer's moments."""
    activation_bytes: int
    """What a micro-batch takes at its peak, activations kept for the backward pass above all."""
    evaluation_bytes: int
    """What a batch of an evaluation takes at its peak, features of all images apart."""

    @property
    def peak_bytes(self) -> int:
        """The most at a time: weights and all, beside a micro-batch or a batch of an evaluation."""
        return self.weights_bytes + max(self.activation_bytes, self.evaluation_bytes)

    def lines(self) -> list[str]:
        """For people."""
        trained = self.encoder + self.predictor + self.others
        return [
            f"parameters: encoder {self.encoder:,}, predictor {self.predictor:,}, pyramid and heads "
            f"{self.others:,}; {trained:,} trained, {self.target:,} in the target",
            f"tokens of an image: {self.tokens}, of which {self.visible:.0f} visible and "
            f"{self.predicted:.0f} to predict, on average",
            f"memory, estimated: {_gb(self.weights_bytes)} for weights, gradients and moments, "
            f"{_gb(self.activation_bytes)} for a micro-batch at its peak, {_gb(self.evaluation_bytes)} for a "
            "batch of an evaluation",
        ]


def measure(config: RunConfig) -> Size:
    """Sizes of a run; nothing is allocated but masks for some steps."""
    with torch.device("meta"):
        model = HJEPA(config.model, config.data.image_size)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    moments = 2 if config.training.optimizer == "adamw" else 1
    steps = _some_masks(config, model.grid)
    visible = statistics.mean(masks.visible_BK.shape[1] for masks in steps)
    return Size(
        encoder=counts["encoder"],
        predictor=counts["predictor"],
        others=trained - counts["encoder"] - counts["predictor"],
        target=everything - trained,
        tokens=model.grid[0] * model.grid[1],
        visible=visible,
        predicted=statistics.mean(masks.target_BN.float().sum(1).mean().item() for masks in steps),
        weights_bytes=4 * (everything + (1 + moments) * trained),
        activation_bytes=_activations(config, model.grid[0] * model.grid[1], visible, steps[0]),
        evaluation_bytes=_evaluation(config),
    )


def evaluation_batch(config: RunConfig) -> int:
    """Images that go through an encoder at once where nothing is learnt.

    Of the model and data.image_size alone: neither the machine nor data.batch_size changes it.
    """
    shape, side = config.model.shape, config.data.image_size
    tokens = (side // shape.patch_size) ** 2
    of_a_token = max(3 * shape.embed_dim, int(shape.embed_dim * shape.mlp_ratio))
    if not config.model.use_flash_attention:
        of_a_token = max(of_a_token, shape.num_heads * tokens)  # every score
    largest = 4 * max(tokens * of_a_token, 3 * side**2)
    return min(EVALUATION_IMAGES, max(1, EVALUATION_BYTES // largest))


def _evaluation(config: RunConfig) -> int:
    """Peak bytes of a batch of an evaluation: a block's values and the images."""
    shape, side = config.model.shape, config.data.image_size
    block = (side // shape.patch_size) ** 2 * shape.embed_dim * (_KEPT + _KEPT_HIDDEN * shape.mlp_ratio)
    half = 2 if config.training.use_amp else 4
    return int(evaluation_batch(config) * (half * block + 4 * _IMAGES * 3 * side**2))


def _some_masks(config: RunConfig, grid: tuple[int, int]) -> list[Masks]:
    """The masks of as many optimizer steps as make up about a thousand images."""
    images = min(config.data.batch_size * config.training.accumulation_steps, _MASK_SAMPLES)
    generator = torch.Generator().manual_seed(0)
    return [sample_masks(config.masking, images, grid, generator) for _ in range(_MASK_SAMPLES // images)]


def _activations(config: RunConfig, tokens: int, visible: float, masks: Masks) -> int:
    """Peak bytes of a micro-batch: what is kept for the backward pass, and what passes through beside it.

    Beside measured peaks of ViT-Ti/16 on CPU (`benchmarks/features.py`) this was off by at most 1.4 times.
    """
    shape, predictor = config.model.shape, config.model.predictor
    width = predictor.width(shape.embed_dim)
    crops, local = config.global_crops, config.local_crops(config.training.epochs - 1)
    local_side = config.data.multicrop.local_side(config.data.image_size, shape.patch_size) if local else 0
    encoded = crops * visible + local * (local_side // shape.patch_size) ** 2
    whole = 0.0 if config.model.use_target_encoder else crops * tokens  # with gradient
    if config.loss.adds_ntxent and config.loss.ntxent.on_context:
        encoded += visible
    blocks = [(shape.depth, encoded + whole, shape.embed_dim, shape.mlp_ratio)]
    if config.loss.predicts:
        length = crops * _predicted_with(config, tokens, masks)
        blocks.append((predictor.depth, length, width, predictor.mlp_ratio))
    sizes = [depth * length * dim * (_KEPT + _KEPT_HIDDEN * ratio) for depth, length, dim, ratio in blocks]
    kept = sum(sizes)
    if config.training.use_gradient_checkpointing:
        # The input of every block, and one block at a time in whole.
        kept = sum(depth * length * dim for depth, length, dim, _ in blocks)
        kept += max(size / depth for size, (depth, *_) in zip(sizes, blocks, strict=True))
    levels = config.model.num_hierarchies if config.loss.predicts else 0
    pyramid = sum(tokens / 4**level for level in range(levels))
    features = _FEATURES * crops * pyramid * shape.embed_dim
    target = crops * tokens * shape.embed_dim * (_KEPT + _KEPT_HIDDEN * shape.mlp_ratio)
    half = 2 if config.training.use_amp else 4
    views = crops + int(config.loss.adds_ntxent)
    images = 4 * _IMAGES * 3 * (views * config.data.image_size**2 + local * local_side**2)
    return int(config.data.batch_size * (half * (kept + target) + 4 * features + images))


def _predicted_with(config: RunConfig, tokens: int, masks: Masks) -> float:
    """Tokens of an image that go through the predictor's blocks, of all its passes."""
    if config.model.predictor.mode == "union" or masks.blocks_BMN is None:
        return tokens
    visible = masks.visible_BK.shape[1]
    largest, number = int(masks.blocks_BMN.sum(-1).max()), masks.blocks_BMN.shape[1]
    rest = int((~masks.blocks_BMN.any(1)).sum(-1).max()) - visible
    return number * (visible + largest) + visible + rest


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
