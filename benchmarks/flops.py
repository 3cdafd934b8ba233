"""Floating-point operations of a training step, from its shapes, and the speed of matrix products here.

Counted are the matrix products of the forward and backward pass, a multiplication and an addition as two:
what a step cannot do without, and no recomputation. Norms, activations, softmax, optimizer and EMA are not
counted, though they take time.
"""

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hjepa.config import RunConfig
from hjepa.encoder import EncoderShape
from hjepa.pyramid import grid_sides

LONG_S = 0.1
"""Seconds of products by which their speed is told."""


def block_flops(tokens: int, dim: int, mlp_ratio: float) -> int:
    """Of one transformer block's forward pass on `tokens` tokens."""
    linear = 2 * tokens * dim * (4 * dim + 2 * int(dim * mlp_ratio))
    return linear + 2 * 2 * tokens * tokens * dim


def encoder_flops(shape: EncoderShape, tokens: int, learns: bool) -> int:
    """Of the encoder on `tokens` patches; the backward pass too where it `learns`."""
    embed = 2 * tokens * 3 * shape.patch_size**2 * shape.embed_dim
    blocks = shape.depth * block_flops(tokens, shape.embed_dim, shape.mlp_ratio)
    # The images want no gradient: the patch embedding's backward pass is one product, not two.
    return 2 * embed + 3 * blocks if learns else embed + blocks


def our_flops(config: RunConfig, visible: int) -> int:
    """Of a step of ours, per image of which `visible` patches are seen.

    For a target encoder, a predictor with one pass, no FPN and none of the losses that encode more.
    """
    shape, predictor = config.model.shape, config.model.predictor
    side, dim = config.data.image_size // shape.patch_size, shape.embed_dim
    tokens, width = side * side, predictor.width(dim)
    predicted = 2 * (visible + tokens) * dim * width
    predicted += predictor.depth * block_flops(tokens, width, predictor.mlp_ratio)
    levels = grid_sides(side, config.model.num_hierarchies)[1:]
    heads = sum(2 * level * level * dim * dim for level in levels)
    encoders = encoder_flops(shape, visible, learns=True) + encoder_flops(shape, tokens, learns=False)
    return encoders + 3 * (predicted + heads)


def old_style_flops(shape: EncoderShape, image_size: int, predictor_depth: int, levels: int) -> int:
    """Of a step of benchmarks/old_style.py, per image."""
    tokens, dim = (image_size // shape.patch_size) ** 2, shape.embed_dim
    predicted = 2 * tokens * dim * dim + predictor_depth * block_flops(tokens, dim, shape.mlp_ratio)
    heads = sum(2 * (tokens // 2**level) * dim * dim for level in range(levels))
    encoders = encoder_flops(shape, tokens, learns=True) + encoder_flops(shape, tokens, learns=False)
    return encoders + 3 * (predicted + heads)


@dataclass(frozen=True)
class Product:
    """A matrix product, (rows, inner) x (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.columns

    def __str__(self) -> str:
        return f"{self.rows} x {self.inner} x {self.columns}"

    def speed(self, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
        """Operations by second of the clock, and by CPU second of all threads."""
        left = torch.randn(self.rows, self.inner, device=device).to(dtype)
        right = torch.randn(self.columns, self.inner, device=device).to(dtype)
        at_once = 50 if device.type == "cuda" else 1  # where to wait costs as much as a product
        F.linear(left, right)
        wait(device)
        done, clock, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - clock < LONG_S:
            for _ in range(at_once):
                F.linear(left, right)
            wait(device)
            done += at_once * self.flops
        return done / (time.perf_counter() - clock), done / (time.process_time() - cpu)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
