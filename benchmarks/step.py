"""Images/s of a training step: ours in float32 and in bfloat16 beside one in the old style.

A step is masks, forward, backward, clipping, optimizer and EMA. Ours is built of the functions that
`hjepa.step` steps with; the old style is benchmarks/old_style.py. Images are random bytes from a seed,
normalised and on the device beforehand: loading and augmentation are not in the figures, and no image set
would change them.

Beside it stand the operations of a step (benchmarks/flops.py), and what share they are of what matrix
products alone reach here, measured between the steps.

Shape letters: B images, C channels, H x W pixels, K visible patches, N patches of the grid, L of a level.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.flops import Product, old_style_flops, our_flops, wait
from benchmarks.old_style import LEVEL_WEIGHTS, OldStyle
from hjepa.config import RunConfig
from hjepa.encoder import timm_shape
from hjepa.masking import Masks, sample_masks
from hjepa.run import build_run, pick_device, random_stream
from hjepa.schema import ConfigError, Layers
from hjepa.step import optimize

ENCODER, IMAGE_SIZE, TARGET_BLOCKS, SEED = "vit_tiny_patch16_224", 224, 4, 0
WARMUP_ROUNDS = 2
LARGE = {"cpu": 2048, "cuda": 8192, "mps": 2048}
"""Rows and columns of the large matrix product, by device; as many as it takes to reach the limit."""
OLD, WHOLE, FLOAT32, BFLOAT16 = "old style", "all visible", "float32", "bfloat16"
SIDES = (OLD, WHOLE, FLOAT32, BFLOAT16)
PARTS = ("masks", "context encoder", "predictor, loss", "target encoder", "optimizer, EMA")

EPILOG = """\
The sides alternate step by step, in turn from the first to the last and back, and every round gives ratios:
neighbours on the machine slow all of them, so trust the ratios and not the images/s alone. On a busy CPU use
--threads 1, where CPU seconds, printed too, do not count the time in which others had the core.
`all visible` is ours in float32 with every patch seen by the context encoder.

examples:
  python -m benchmarks.step
  python -m benchmarks.step --threads 1 --batch 16
  python -m benchmarks.step --sides "all visible" float32
  python -m benchmarks.step --device cuda --encoder vit_small_patch16_224 --batch 256 --rounds 50
"""


class Step(NamedTuple):
    """What one step took."""

    parts: dict[str, float]  # seconds
    wall_s: float
    cpu_s: float  # of all threads
    flops: float  # per image


class Speed(NamedTuple):
    """Operations of a matrix product by second."""

    wall: float
    cpu: float  # by CPU second of all threads


class Clock:
    """Seconds by part of a step. On CUDA a mark is an event, and does not wait for the device."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.marks: list[tuple[str, Any]] = []

    def mark(self, part: str) -> None:
        """The work since the last mark was `part`."""
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


@dataclass
class Side:
    """One way to step."""

    step: Callable[[], float]
    """Takes a step; the operations of it, per image."""
    dtype: torch.dtype
    steps: list[Step] = field(default_factory=list)

    def images_per_s(self, batch: int) -> list[float]:
        return [batch / step.wall_s for step in self.steps]


@dataclass
class Bench:
    """What is compared, and on what."""

    config: RunConfig
    device: torch.device
    sides: dict[str, Side]
    products: list[Product]
    speeds: dict[tuple[torch.dtype, Product], list[Speed]] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return self.config.data.batch_size

    def measure(self, clock: Clock, rounds: int) -> None:
        """Take `rounds` steps of each side in turn, after some that are not counted."""
        with random_stream(SEED, 1):
            for number in range(WARMUP_ROUNDS + rounds):
                sides = list(self.sides.values())
                for side in sides if number % 2 else reversed(sides):
                    step = self._timed(side, clock)
                    if number >= WARMUP_ROUNDS:
                        side.steps.append(step)
                if number >= WARMUP_ROUNDS:
                    self._multiply()

    def _timed(self, side: Side, clock: Clock) -> Step:
        wait(self.device)
        cpu_start = time.process_time()
        clock.mark("start")
        flops = side.step()
        clock.mark("optimizer, EMA")
        parts = clock.read()
        return Step(parts, sum(parts.values()), time.process_time() - cpu_start, flops)

    def _multiply(self) -> None:
        for dtype in {side.dtype: None for side in self.sides.values()}:
            for product in self.products:
                speed = Speed(*product.speed(self.device, dtype))
                self.speeds.setdefault((dtype, product), []).append(speed)

    def shares(self, side: Side, by: str) -> list[float]:
        """Of what the faster of the products reached in the same round, the share that each step did.

        `by` is "wall" or "cpu", the seconds to count.
        """
        best = [
            max(getattr(self.speeds[side.dtype, product][number], by) for product in self.products)
            for number in range(len(side.steps))
        ]
        return [
            step.flops * self.batch / getattr(step, f"{by}_s") / peak
            for step, peak in zip(side.steps, best, strict=True)
        ]


def build_bench(options: argparse.Namespace, clock: Clock) -> Bench:
    """The sides on the same images; `clock` watches them. ConfigError where they do not fit."""
    device, config = pick_device(options.device), config_of(options, FLOAT32)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    images_BCHW = random_images(options).to(device)
    sides = {}
    for name in SIDES:
        if name in options.sides:
            build = old_side if name == OLD else our_side
            sides[name] = build(options, images_BCHW, name, clock)
    dim, large = config.model.shape.embed_dim, LARGE[device.type]
    tokens = (options.image_size // config.model.shape.patch_size) ** 2
    products = [Product(options.batch * tokens, dim, 4 * dim), Product(large, large, large)]
    return Bench(config, device, sides, products)


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


def our_side(options: argparse.Namespace, images_BCHW: Tensor, name: str, clock: Clock) -> Side:
    """A step of ours."""
    run = build_run(config_of(options, name))
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

    return Side(step, torch.bfloat16 if name == BFLOAT16 else torch.float32)


def old_side(options: argparse.Namespace, images_BCHW: Tensor, name: str, clock: Clock) -> Side:
    """A step in the old style."""
    device = images_BCHW.device
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

    return Side(step, torch.float32)


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} (quartiles {low:.2f} to {high:.2f})"


def show(bench: Bench, options: argparse.Namespace) -> None:
    """Print the figures."""
    on_cpu = bench.device.type == "cpu"
    place = "cpu" if on_cpu else torch.cuda.get_device_name(bench.device)
    print(
        f"{options.encoder}, {options.image_size} px, {bench.batch} random images a step, {TARGET_BLOCKS} "
        f"target blocks, predictor of {options.predictor_depth} blocks\n"
        f"{place}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, torch "
        f"{torch.__version__}; {options.rounds} steps of each side"
    )
    for name, side in bench.sides.items():
        flops = statistics.mean(step.flops for step in side.steps)
        print(f"{name}: {spread(side.images_per_s(bench.batch))} images/s, {flops / 1e9:.2f} GFLOP an image")
    show_ratios(bench)
    show_limits(bench)
    print(f"\n{'median ms, share of step':26}" + "".join(f"{name:>18}" for name in bench.sides))
    for part in PARTS:
        row = f"{part:26}"
        for side in bench.sides.values():
            middle = statistics.median(step.parts[part] for step in side.steps)
            share = statistics.median(step.parts[part] / step.wall_s for step in side.steps)
            row += f"{middle * 1e3:10.1f} {share:7.1%}"
        print(row)


def show_ratios(bench: Bench) -> None:
    """How many times as fast as the first side the others are."""
    (first, slow), *others = bench.sides.items()
    print()
    for name, side in others:
        pairs = list(zip(slow.steps, side.steps, strict=True))
        print(f"{name} over {first}: {spread([a.wall_s / b.wall_s for a, b in pairs])} times as fast")
        if bench.device.type == "cpu":
            print(f"  in CPU seconds {spread([a.cpu_s / b.cpu_s for a, b in pairs])}")


def show_limits(bench: Bench) -> None:
    """What matrix products alone reach here, and the share of it that each side does."""
    on_cpu = bench.device.type == "cpu"
    print("\nmatrix products, GFLOP/s, medians:")
    for (dtype, product), speeds in bench.speeds.items():
        line = f"  {dtype_name(dtype)}, {product}: {statistics.median(s.wall for s in speeds) / 1e9:.0f}"
        if on_cpu:
            line += f"; by CPU second of one core {statistics.median(s.cpu for s in speeds) / 1e9:.0f}"
        print(line)
    for name, side in bench.sides.items():
        share = statistics.median(bench.shares(side, "wall"))
        line = f"{name} reaches {share:.0%} of the {dtype_name(side.dtype)} limit"
        if on_cpu:
            line += f", by CPU seconds {statistics.median(bench.shares(side, 'cpu')):.0%}"
        print(line)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; exits on a wrong one."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\nShape")[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--encoder", default=ENCODER, help="timm's name (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE, help="pixels (default %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images of a step (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each side (default %(default)s)")
    parser.add_argument("--predictor-depth", type=int, default=6, help="blocks (default %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    shown = (OLD, FLOAT32, BFLOAT16)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=shown, help="(default all but one)")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds: at least 2, for a spread")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    options = parse(arguments)
    try:
        clock = Clock(pick_device(options.device))
        bench = build_bench(options, clock)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    bench.measure(clock, options.rounds)
    show(bench, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
