"""What encoding only the visible patches buys: images/s of a training step, masked against all visible.

A step of ViT-Ti/16 at 224 px is masks, forward, backward, clipping, optimizer and EMA, built of the
functions that `hjepa.step` steps with. Images are random bytes from a seed, normalised and on the
device beforehand: loading and augmentation are not in the figures, and no image set would change them.

Shape letters: B images, C channels, H x W pixels, K visible patches, N patches of the grid, L of a level.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hjepa.config import RunConfig
from hjepa.masking import Masks, sample_masks
from hjepa.run import Run, build_run, random_stream
from hjepa.schema import ConfigError, Layers
from hjepa.step import optimize

ENCODER, IMAGE_SIZE, TARGET_BLOCKS, SEED = "vit_tiny_patch16_224", 224, 4, 0
WARMUP_PAIRS = 2
SIDES = ("masked", "all visible")
PARTS = ("masks", "context encoder", "predictor, loss", "target encoder", "optimizer, EMA")

EPILOG = """\
The two sides alternate step by step, each first in every other pair, and every pair gives a ratio:
neighbours on the machine slow both, so trust the ratio and not the images/s alone. On a busy CPU use
--threads 1, where CPU seconds, printed too, do not count the time in which others had the core.

examples:
  python benchmarks/step.py
  python benchmarks/step.py --threads 1 --batch 16
  python benchmarks/step.py --device cuda --amp --batch 256 --pairs 100
"""


class Step(NamedTuple):
    """What one step took."""

    parts: dict[str, float]  # seconds
    wall_s: float
    cpu_s: float  # of all threads
    visible: int  # patches that the context encoder saw of each image


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


def mark_parts(run: Run, clock: Clock) -> None:
    """Have the model mark where one part of its forward and backward pass ends and the next begins."""

    def encoded(_module: object, _inputs: object, tokens_BKD: Tensor) -> None:
        clock.mark("context encoder")
        # Called once the gradient is back through the predictor; the rest of the way is the encoder's.
        tokens_BKD.register_hook(lambda _gradient: clock.mark("predictor, loss"))

    run.model.encoder.register_forward_hook(encoded)
    run.optimizer.register_step_pre_hook(lambda *_: clock.mark("context encoder"))
    assert run.model.target_encoder is not None
    run.model.target_encoder.register_forward_pre_hook(lambda *_: clock.mark("predictor, loss"))
    run.model.target_encoder.register_forward_hook(lambda *_: clock.mark("target encoder"))


def timed_step(run: Run, images_BCHW: Tensor, side: str, clock: Clock) -> Step:
    """One training step."""
    model, cpu_start = run.model, time.process_time()
    clock.mark("start")
    masks = sample_masks(run.config.masking, run.batch, model.grid, torch.default_generator)
    if side == "all visible":
        visible_BK = torch.arange(masks.target_BN.shape[1]).expand(run.batch, -1).contiguous()
        masks = Masks(visible_BK, masks.target_BN, masks.blocks_BMN)
    masks = masks.to(run.device)
    clock.mark("masks")
    optimize(run, images_BCHW, masks)
    clock.mark("optimizer, EMA")
    parts = clock.read()
    return Step(parts, sum(parts.values()), time.process_time() - cpu_start, masks.visible_BK.shape[1])


def measure(run: Run, pairs: int) -> dict[str, list[Step]]:
    """The steps of each side, `pairs` of them, alternating, after some that are not counted."""
    clock = Clock(run.device)
    mark_parts(run, clock)
    run.model.train()
    steps: dict[str, list[Step]] = {side: [] for side in SIDES}
    with random_stream(SEED, 1):
        bytes_BCHW = torch.randint(256, (run.batch, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
        images_BCHW = run.augment.plain(bytes_BCHW.to(run.device))
        for pair in range(WARMUP_PAIRS + pairs):
            for side in SIDES if pair % 2 else reversed(SIDES):
                steps[side].append(timed_step(run, images_BCHW, side, clock))
    return {side: timed[WARMUP_PAIRS:] for side, timed in steps.items()}


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} (quartiles {low:.2f} to {high:.2f})"


def show(run: Run, steps: dict[str, list[Step]]) -> None:
    """Print the figures."""
    on_cpu = run.device.type == "cpu"
    place = "cpu" if on_cpu else torch.cuda.get_device_name(run.device)
    print(
        f"{ENCODER}, {IMAGE_SIZE} px, {run.batch} random images a step, {TARGET_BLOCKS} target blocks, "
        f"predictor of {run.config.model.predictor.depth} blocks\n"
        f"{place}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, torch "
        f"{torch.__version__}, {'bfloat16 autocast' if run.config.training.use_amp else 'float32'}; "
        f"{len(steps[SIDES[0]])} steps of each side"
    )
    for side, timed in steps.items():
        visible = statistics.mean(step.visible for step in timed)
        speed = spread([run.batch / step.wall_s for step in timed])
        print(f"{side}: {speed} images/s, {visible:.1f} of {run.model.grid[0] ** 2} tokens visible")
    pairs = list(zip(*steps.values(), strict=True))
    print(f"masked is faster by {spread([whole.wall_s / masked.wall_s for masked, whole in pairs])}")
    if on_cpu:
        print(f"  in CPU seconds by {spread([whole.cpu_s / masked.cpu_s for masked, whole in pairs])}")
    print(f"{'median ms, share of step':26}" + "".join(f"{side:>18}" for side in SIDES))
    for part in PARTS:
        row = f"{part:26}"
        for timed in steps.values():
            middle = statistics.median(step.parts[part] for step in timed)
            share = statistics.median(step.parts[part] / step.wall_s for step in timed)
            row += f"{middle * 1e3:10.1f} {share:7.1%}"
        print(row)


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\nShape")[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=32, help="images of a step (default %(default)s)")
    parser.add_argument("--pairs", type=int, default=10, help="steps of each side (default %(default)s)")
    parser.add_argument("--predictor-depth", type=int, default=6, help="blocks (default %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    options = parser.parse_args()
    if options.pairs < 2:
        parser.error("--pairs: at least 2, for a spread")
    layers = Layers()
    settings = {
        "model": {"encoder_type": ENCODER, "predictor": {"depth": options.predictor_depth}},
        "masking": {"num_masks": TARGET_BLOCKS},
        "data": {"image_size": IMAGE_SIZE, "batch_size": options.batch},
        "training": {"use_amp": options.amp},
    }
    place = {"device": options.device, "threads": options.threads, "seed": SEED}
    layers.add(settings | place, "options")
    try:
        run = build_run(layers.build(RunConfig, "step.py"))
    except ConfigError as error:
        parser.error(str(error))
    show(run, measure(run, options.pairs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
