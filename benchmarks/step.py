"""Images/s of a training step: ours in float32 and in bfloat16 beside one in the old style.

A step is masks, forward, backward, clipping, optimizer and EMA; of loading and augmentation nothing
(benchmarks/step_sides.py). On a CPU each side is a process of its own, ours with the memory that
`hjepa-train` and a sweep's trials have (hjepa/memory.py), the old style as Python begins. `old style, memory
as ours` has it too, and tells what of the difference is the step's alone.

Beside it stand the operations of a step (benchmarks/flops.py), and what share they are of what matrix
products alone reach here, measured between the steps.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import NamedTuple

import torch

from benchmarks.flops import Product
from benchmarks.step_sides import (
    BFLOAT16,
    FLOAT32,
    OLD,
    OLD_HELPED,
    OLD_STYLES,
    PARTS,
    SEED,
    SIDES,
    TARGET_BLOCKS,
    Side,
    Step,
    build_side,
    config_of,
    dtype_of,
)
from hjepa.memory import huge_pages, with_huge_pages
from hjepa.run import pick_device
from hjepa.schema import ConfigError

ENCODER, IMAGE_SIZE = "vit_tiny_patch16_224", 224
WARMUP_ROUNDS = 2
LARGE = {"cpu": 2048, "cuda": 8192, "mps": 2048}
"""Rows and columns of the large matrix product, by device; as many as it takes to reach the limit."""

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


class Speed(NamedTuple):
    """Operations of a matrix product by second."""

    wall: float
    cpu: float  # by CPU second of all threads


_built: dict[str, Side] = {}
"""In a process with sides: these."""


class Worker:
    """A process with some sides, which takes their steps when it is asked to."""

    def __init__(self, options: argparse.Namespace, names: list[str], plain: bool):
        """Begin it, `plain` without huge pages. ConfigError where the sides do not fit."""
        self._process = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            with nullcontext() if plain else with_huge_pages():
                begun = self._process.submit(_build, options, names)
            self.threads = begun.result()
        except BaseException:
            self.close()
            raise

    def step(self, name: str) -> Step:
        return self._process.submit(_step, name).result()

    def speed(self, name: str, product: Product) -> Speed:
        """That of matrix products with the side's numbers."""
        return self._process.submit(_speed, name, product).result()

    def close(self) -> None:
        self._process.shutdown()


def _build(options: argparse.Namespace, names: list[str]) -> int:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(SEED + 1)
    device = pick_device(options.device)
    _built.update((name, build_side(options, name, device)) for name in names)
    return torch.get_num_threads()


def _step(name: str) -> Step:
    return _built[name].step()


def _speed(name: str, product: Product) -> Speed:
    return Speed(*product.speed(_built[name].clock.device, dtype_of(name)))


@dataclass
class Bench:
    """What is compared, and on what."""

    options: argparse.Namespace
    device: torch.device
    workers: dict[str, Worker]
    """By the side."""
    products: list[Product]
    steps: dict[str, list[Step]] = field(default_factory=dict)
    speeds: dict[tuple[str, Product], list[Speed]] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        return next(iter(self.workers.values())).threads

    def measure(self) -> None:
        """Take some steps of each side in turn, after others that are not counted."""
        for number in range(WARMUP_ROUNDS + self.options.rounds):
            names = list(self.workers)
            for name in names if number % 2 else reversed(names):
                step = self.workers[name].step(name)
                if number >= WARMUP_ROUNDS:
                    self.steps.setdefault(name, []).append(step)
            if number >= WARMUP_ROUNDS:
                self._multiply()

    def _multiply(self) -> None:
        for name, worker in self.workers.items():
            for product in self.products:
                self.speeds.setdefault((name, product), []).append(worker.speed(name, product))

    def images_per_s(self, name: str) -> list[float]:
        return [self.options.batch / step.wall_s for step in self.steps[name]]

    def shares(self, name: str, by: str) -> list[float]:
        """Of what the faster of the products reached in the same round, the share that each step did.

        `by` is "wall" or "cpu", the seconds to count.
        """
        best = [
            max(getattr(self.speeds[name, product][number], by) for product in self.products)
            for number in range(self.options.rounds)
        ]
        return [
            step.flops * self.options.batch / getattr(step, f"{by}_s") / peak
            for step, peak in zip(self.steps[name], best, strict=True)
        ]


@contextmanager
def bench_of(options: argparse.Namespace) -> Iterator[Bench]:
    """The sides in their processes. ConfigError where they do not fit."""
    device, shape = pick_device(options.device), config_of(options, FLOAT32).model.shape
    names = [name for name in SIDES if name in options.sides]
    on_cpu = device.type == "cpu"
    with ExitStack() as stack:
        workers = {}
        for group in [[name] for name in names] if on_cpu else [names]:
            worker = Worker(options, group, plain=not on_cpu or group == [OLD])
            stack.callback(worker.close)
            workers.update(dict.fromkeys(group, worker))
        large = options.product or LARGE[device.type]
        tokens = (options.image_size // shape.patch_size) ** 2
        step_sized = Product(options.batch * tokens, shape.embed_dim, 4 * shape.embed_dim)
        yield Bench(options, device, workers, [step_sized, Product(large, large, large)])


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} (quartiles {low:.2f} to {high:.2f})"


def show(bench: Bench) -> None:
    """Print the figures."""
    options = bench.options
    place = "cpu" if bench.device.type == "cpu" else torch.cuda.get_device_name(bench.device)
    huge = "" if not huge_pages() else ", huge pages for ours"
    print(
        f"{options.encoder}, {options.image_size} px, {options.batch} random images a step, {TARGET_BLOCKS} "
        f"target blocks, predictor of {options.predictor_depth} blocks\n"
        f"{place}{huge}, {bench.threads} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}; "
        f"{options.rounds} steps of each side"
    )
    for name, steps in bench.steps.items():
        flops = statistics.mean(step.flops for step in steps)
        print(f"{name}: {spread(bench.images_per_s(name))} images/s, {flops / 1e9:.2f} GFLOP an image")
    show_ratios(bench)
    show_limits(bench)
    print(f"\n{'median ms, share of step':26}" + "".join(f"{name:>26}" for name in bench.steps))
    for part in PARTS:
        row = f"{part:26}"
        for steps in bench.steps.values():
            middle = statistics.median(step.parts[part] for step in steps)
            share = statistics.median(step.parts[part] / step.wall_s for step in steps)
            row += f"{middle * 1e3:18.1f} {share:7.1%}"
        print(row)


def show_ratios(bench: Bench) -> None:
    """How many times as fast as those in the old style the others are; without any, as the first one."""
    names = list(bench.workers)
    old = [name for name in names if name in OLD_STYLES] or names[:1]
    print()
    for base in old:
        for name in names:
            if name == base or (name in old and names.index(name) < names.index(base)):
                continue
            pairs = list(zip(bench.steps[base], bench.steps[name], strict=True))
            print(f"{name} over {base}: {spread([a.wall_s / b.wall_s for a, b in pairs])} times as fast")
            if bench.device.type == "cpu":
                print(f"  in CPU seconds {spread([a.cpu_s / b.cpu_s for a, b in pairs])}")


def show_limits(bench: Bench) -> None:
    """What matrix products alone reach here, and the share of it that each side does."""
    on_cpu = bench.device.type == "cpu"
    print("\nmatrix products, GFLOP/s, medians:")
    for (name, product), speeds in bench.speeds.items():
        line = f"  {name}, {product}: {statistics.median(s.wall for s in speeds) / 1e9:.0f}"
        if on_cpu:
            line += f"; by CPU second of one core {statistics.median(s.cpu for s in speeds) / 1e9:.0f}"
        print(line)
    for name in bench.workers:
        share = statistics.median(bench.shares(name, "wall"))
        line = f"{name} reaches {share:.0%} of its limit, in {str(dtype_of(name)).removeprefix('torch.')}"
        if on_cpu:
            line += f"; by CPU seconds {statistics.median(bench.shares(name, 'cpu')):.0%}"
        print(line)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; exits on a wrong one."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default=ENCODER, help="timm's name (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE, help="pixels (default %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images of a step (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each side (default %(default)s)")
    parser.add_argument("--predictor-depth", type=int, default=6, help="blocks (default %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--product", type=int, metavar="N", help="rows of the large product")
    shown = (OLD, OLD_HELPED, FLOAT32, BFLOAT16)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=shown, help="(default all but one)")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds: at least 2, for a spread")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    options = parse(arguments)
    try:
        with bench_of(options) as bench:
            bench.measure()
            show(bench)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
