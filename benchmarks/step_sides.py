"""The sides of benchmarks/step.py: ways to take a training step, and what one took.

Ours is built of the functions that `hjepa.step` steps with; the old style is benchmarks/old_style.py. Images
are random bytes from a seed, normalised and on the device beforehand: loading and augmentation are not in the
figures, and no image set would change them.

Shape letters: B images, C channels, H x W pixels, K visible patches, N patches of the grid.
"""

import argparse
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.flops import old_style_flops, our_flops, wait
from benchmarks.old_style import LEVEL_WEIGHTS, OldStyle
from hjepa.config import RunConfig
from hjepa.encoder import timm_shape
from hjepa.masking import Masks, sample_masks
from hjepa.memory import keep_freed
from hjepa.run import build_run, random_stream
from hjepa.schema import Layers
from hjepa.step import optimize

TARGET_BLOCKS, SEED = 4, 0
OLD, OLD_HELPED = "old style", "old style, memory as ours"
WHOLE, FLOAT32, BFLOAT16 = "all visible", "float32", "bfloat16"
OLD_STYLES, SIDES = (OLD, OLD_HELPED), (OLD, OLD_HELPED, WHOLE, FLOAT32, BFLOAT16)
PARTS = ("masks", "context encoder", "predictor, loss", "target encoder", "optimizer, EMA")


class Step(NamedTuple):
    """What one step took."""

    parts: dict[str, float]  # seconds
    wall_s: float
    cpu_s: float  # of all threads
    flops: float  # per image


class Clock:
    """Seconds by part of a step. On CUDA a mark is an event, and does not wait for the device.

    Of several lanes (hjepa/lanes.py) those of the main thread count.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.cuda = device.type == "cuda"
        self.marks: list[tuple[str, Any]] = []

    def mark(self, part: str) -> None:
        """The work since the last mark was `part`."""
        if threading.current_thread() is not threading.main_thread():
            return
        now = torch.cuda.Event(enable_timing=True) if self.cuda else time.perf_counter()
        if isinstance(now, torch.cuda.Event):
            now.record()
        self.marks.append((part, now))

    def read(self) -> dict[str, float]:
        """Seconds by part since the first mark; forgets the marks."""
        if self.cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        for (_, start), (part, end) in itertools.pairwise(self.marks):
            seconds[part] += start.elapsed_time(end) / 1e3 if self.cuda else end - start
        self.marks.clear()
        return seconds

    def watch(self, encoder: nn.Module, target_encoder: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Have a model mark where one part of its forward and backward pass ends and the next begins."""

        def encoded(_module: object, _inputs: object, tokens_BKD: Tensor) -> None:
            self.mark("context encoder")
            # Called once the gradient is back through the predictor; the rest of the way is the encoder's.
            tokens_BKD.register_hook(lambda _gradient: self.mark("predictor, loss"))

        encoder.register_forward_hook(encoded)
        optimizer.register_step_pre_hook(lambda *_: self.mark("context encoder"))
        target_encoder.register_forward_pre_hook(lambda *_: self.mark("predictor, loss"))
        target_encoder.register_forward_hook(lambda *_: self.mark("target encoder"))


@dataclass(frozen=True)
class Side:
    """One way to step."""

    take: Callable[[], float]
    """Takes a step; the operations of it, per image."""
    clock: Clock

    def step(self) -> Step:
        """What a step takes."""
        wait(self.clock.device)
        cpu_start = time.process_time()
        self.clock.mark("start")
        flops = self.take()
        self.clock.mark("optimizer, EMA")
        parts = self.clock.read()
        return Step(parts, sum(parts.values()), time.process_time() - cpu_start, flops)


def dtype_of(side: str) -> torch.dtype:
    return torch.bfloat16 if side == BFLOAT16 else torch.float32


def build_side(options: argparse.Namespace, name: str, device: torch.device) -> Side:
    """A side on its images. ConfigError where they do not fit."""
    images_BCHW = random_images(options).to(device)
    build = old_side if name in OLD_STYLES else our_side
    return build(options, images_BCHW, name)


def random_images(options: argparse.Namespace) -> Tensor:
    """Images of random bytes, of mean 0 and deviation 1."""
    size = options.batch, 3, options.image_size, options.image_size
    generator = torch.Generator().manual_seed(SEED)
    bytes_BCHW = torch.randint(256, size, dtype=torch.uint8, generator=generator)
    return (bytes_BCHW / 255 - 0.5) / 0.29


def config_of(options: argparse.Namespace, side: str) -> RunConfig:
    """The run of a side of ours."""
    layers = Layers()
    settings = {
        "model": {"encoder_type": options.encoder, "predictor": {"depth": options.predictor_depth}},
        "masking": {"num_masks": TARGET_BLOCKS},
        "data": {"image_size": options.image_size, "batch_size": options.batch},
        "training": {"use_amp": side == BFLOAT16},
    }
    place = {"device": options.device, "threads": options.threads, "seed": SEED}
    layers.add(settings | place, "options")
    return layers.build(RunConfig, "step.py")


def our_side(options: argparse.Namespace, images_BCHW: Tensor, name: str) -> Side:
    """A step of ours."""
    run, clock = build_run(config_of(options, name)), Clock(images_BCHW.device)
    run.model.train()
    assert run.model.target_encoder is not None
    clock.watch(run.model.encoder, run.model.target_encoder, run.optimizer)
    generator = torch.Generator().manual_seed(SEED)  # each side's own, so that all see the same masks

    def step() -> float:
        masks = sample_masks(run.config.masking, run.batch, run.model.grid, generator)
        if name == WHOLE:
            visible_BK = torch.arange(masks.target_BN.shape[1]).expand(run.batch, -1).contiguous()
            masks = Masks(visible_BK, masks.target_BN, masks.blocks_BMN)
        masks = masks.to(run.device)
        clock.mark("masks")
        optimize(run, images_BCHW, masks)
        return our_flops(run.config, masks.visible_BK.shape[1])

    return Side(step, clock)


def old_side(options: argparse.Namespace, images_BCHW: Tensor, name: str) -> Side:
    """A step in the old style."""
    device = images_BCHW.device
    clock = Clock(device)
    if name == OLD_HELPED:
        keep_freed()
    with random_stream(SEED, 0):
        model = OldStyle(options.encoder, options.image_size, options.predictor_depth, TARGET_BLOCKS)
    model.to(device)
    clock.watch(model.encoder, model.target_encoder, model.optimizer)
    shape, levels = timm_shape(options.encoder), len(LEVEL_WEIGHTS)
    flops = old_style_flops(shape, options.image_size, options.predictor_depth, levels)

    def step() -> float:
        seen_BN, wanted_BN = model.draw_masks(len(images_BCHW))
        seen_BN, wanted_BN = seen_BN.to(device), wanted_BN.to(device)
        clock.mark("masks")
        model.step(images_BCHW, seen_BN, wanted_BN)
        return flops

    return Side(step, clock)
