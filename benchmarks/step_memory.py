"""Peak memory of a training step, and what checkpointing and accumulation take off it.

Each way to take the same step of `--batch` images runs in a process of its own: on the CPU the peak is the
process's high-water mark, and beside it stands what it held before the first step (torch, weights, images);
on CUDA it is what torch had allocated at the most. The step, and the memory that ours begins with, are those
of benchmarks/step.py.
"""

import argparse
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context

import psutil
import torch

from benchmarks.flops import wait
from benchmarks.old_style import OldStyle
from benchmarks.step import parse as parse_step
from benchmarks.step_sides import BFLOAT16, FLOAT32, OLD, TARGET_BLOCKS, config_of, random_images
from hjepa.config import RunConfig
from hjepa.masking import sample_masks
from hjepa.memory import with_huge_pages
from hjepa.pace import peak_bytes
from hjepa.run import build_run, pick_device
from hjepa.step import optimize

STEPS, PARTS = 3, 4


@dataclass(frozen=True)
class Way:
    """One way to take the step."""

    side: str
    checkpointing: bool = False
    parts: int = 1
    """Micro-batches that the step is accumulated of."""

    def __str__(self) -> str:
        extra = ", checkpointing" if self.checkpointing else ""
        return self.side + extra + (f", accumulated of {self.parts}" if self.parts > 1 else "")


WAYS = [Way(OLD)] + [
    Way(side, checkpointing, parts)
    for side in (FLOAT32, BFLOAT16)
    for parts in (1, PARTS)
    for checkpointing in (False, True)
]


def main() -> None:
    options = parse_step()
    if options.batch % PARTS:
        raise SystemExit(f"--batch: a multiple of {PARTS}, which is accumulated of as many parts")
    print(
        f"{options.encoder}, {options.image_size} px, {options.batch} images, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':44}{'before, MB':>12}{'peak, MB':>12}{'the step, MB':>14}{'ms a step':>12}")
    for way in WAYS:
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            with nullcontext() if way.side == OLD else with_huge_pages():
                asked = alone.submit(measured, options, way)
            before, peak, seconds = asked.result()
        sizes = f"{before / 1e6:12.0f}{peak / 1e6:12.0f}{(peak - before) / 1e6:14.0f}"
        print(f"{way!s:44}{sizes}{seconds * 1e3:12.0f}", flush=True)


def measured(options: argparse.Namespace, way: Way) -> tuple[int, int, float]:
    """Bytes before the first step and at the peak of some, and seconds of one: on the CPU those of all its
    threads."""
    device = pick_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    images_BCHW = random_images(options).to(device)
    if way.side == OLD:
        model = OldStyle(options.encoder, options.image_size, options.predictor_depth, TARGET_BLOCKS).to(
            device
        )

        def step() -> None:
            model.step(images_BCHW, *(mask_BN.to(device) for mask_BN in model.draw_masks(options.batch)))
    else:
        run = build_run(changed(config_of(options, way.side), way))
        run.model.train()
        generator = torch.Generator().manual_seed(0)

        def step() -> None:
            masks = sample_masks(run.config.masking, options.batch, run.model.grid, generator)
            optimize(run, images_BCHW, masks.to(device))

    on_cuda = device.type == "cuda"
    before = torch.cuda.memory_allocated() if on_cuda else psutil.Process().memory_info().rss
    now = time.perf_counter if on_cuda else time.process_time
    seconds = []
    for _ in range(STEPS):
        start = now()
        step()
        wait(device)
        seconds.append(now() - start)
    peak = torch.cuda.max_memory_allocated() if on_cuda else peak_bytes()
    return before, peak, statistics.median(seconds)


def changed(config: RunConfig, way: Way) -> RunConfig:
    """The config with the step taken in that way."""
    settings = {"use_gradient_checkpointing": way.checkpointing, "accumulation_steps": way.parts}
    training = config.training.model_copy(update=settings)
    data = config.data.model_copy(update={"batch_size": config.data.batch_size // way.parts})
    return config.model_copy(update={"training": training, "data": data})


if __name__ == "__main__":
    main()
