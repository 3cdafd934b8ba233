"""What each feature costs: time of a training step and its peak memory, beside the base's.

A step is what `hjepa.step.train_step` does: images, views, masks, forward, backward, clipping,
optimizer and EMA. Every feature is measured in a process of its own, where its steps and the base's
alternate; the ratio of each pair of neighbours counts, so that other work on the machine slows both.
On a CPU seconds are those that the process had of it, which leaves out while others had it.
Memory is the peak of a step over what the process held before it: activations, gradients and
temporary copies, not the weights.
"""

import argparse
import ctypes
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hjepa.config import RunConfig
from hjepa.run import Run, build_run, random_stream
from hjepa.schema import ConfigError, Layers
from hjepa.step import train_step

BASE: dict[str, Any] = {
    "model.encoder_type": "vit_tiny_patch16_224",
    "model.predictor.depth": 6,
    "data.image_size": 224,
    "seed": 0,
}

FEATURES: dict[str, dict[str, Any]] = {
    "model.use_layerscale": {"model.use_layerscale": True},
    "model.drop_path_rate 0.1": {"model.drop_path_rate": 0.1},
    "model.rope": {"model.rope.use_rope": True},
    "plain attention kernel": {"model.use_flash_attention": False},
    "model.predictor.dropout 0.1": {"model.predictor.dropout": 0.1},
    "model.predictor.mode per_block": {"model.predictor.mode": "per_block"},
    "model.use_target_encoder false, sigreg": {"model.use_target_encoder": False, "loss.use_sigreg": True},
    "model.num_hierarchies 1": {"model.num_hierarchies": 1, "loss.hierarchy_weights": [1.0]},
    "model.fpn add": {"model.fpn.use_fpn": True},
    "model.fpn concat": {"model.fpn.use_fpn": True, "model.fpn.fusion_method": "concat"},
    "loss.type smoothl1": {"loss.type": "smoothl1"},
    "loss.type cosine": {"loss.type": "cosine"},
    "loss.use_vicreg": {"loss.use_vicreg": True},
    "loss.use_sigreg": {"loss.use_sigreg": True},
    "loss.sigreg.flatten_patches": {"loss.use_sigreg": True, "loss.sigreg.flatten_patches": True},
    "loss.use_ntxent": {"loss.use_ntxent": True},
    "loss.ntxent.on_context false": {"loss.use_ntxent": True, "loss.ntxent.on_context": False},
    "data.use_multicrop, 2 global": {"data.use_multicrop": True, "data.multicrop.num_local_crops": 0},
    "the same and 6 local": {"data.use_multicrop": True},
    "masking.strategy global_with_local_context": {
        "data.use_multicrop": True,
        "masking.strategy": "global_with_local_context",
    },
    "augmentation.color_jitter 0.4": {"data.augmentation.color_jitter": 0.4},
    "augmentation.gaussian_blur 0.5": {"data.augmentation.gaussian_blur": 0.5},
    "augmentation.deit3, three_augment": {"data.augmentation.strategy": "deit3"},
    "augmentation.deit3, auto_augment": {
        "data.augmentation.strategy": "deit3",
        "data.augmentation.deit3.auto_augment": True,
        "data.augmentation.deit3.three_augment": False,
    },
    "logging.log_gradients": {"logging.log_gradients": True},
    "training.use_amp": {"training.use_amp": True},
    "training.use_gradient_checkpointing": {"training.use_gradient_checkpointing": True},
}

EPILOG = """\
examples:
  python benchmarks/features.py
  python benchmarks/features.py --only fpn --pairs 20
  python benchmarks/features.py --write docs/features.md
  python benchmarks/features.py --device cuda --batch 256 --pairs 50
"""


class Cost(NamedTuple):
    """What a step of one side took."""

    seconds: float
    peak_bytes: int


class Measured(NamedTuple):
    """A feature beside the base, medians over pairs."""

    feature: str
    base_ms: float
    feature_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    base_mb: float
    feature_mb: float


class PeakMemory:
    """Peak memory of what is done between `start` and `read`, in bytes over what was held before."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.before = 0

    def start(self) -> None:
        """Begin anew."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        # What earlier steps freed, the allocator may have kept: it would hide as much of the peak.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: sets the peak back to the present size
        self.before = resident("VmRSS")

    def read(self) -> int:
        """Peak since `start`."""
        if self.cuda:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - self.before
        return resident("VmHWM") - self.before


def resident(field: str) -> int:
    """A size that Linux states of this process, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, field
    return int(found.group(1)) * 1024


def build(changed: dict[str, Any], options: argparse.Namespace) -> Run:
    """A run of the base with some keys changed; a step takes `options.batch` images whatever they are."""
    layers = Layers()
    place = {"data.batch_size": options.batch, "device": options.device, "threads": options.threads}
    for key, value in {**BASE, **place, **changed}.items():
        layers.set(key, value, "features.py")
    return build_run(layers.build(RunConfig, "features.py"))


def timed_step(run: Run, memory: PeakMemory) -> Cost:
    """One training step on the first images."""
    clock = time.process_time if run.device.type == "cpu" else time.perf_counter
    memory.start()
    start = clock()
    with random_stream(0, run.step):
        train_step(run, np.arange(run.batch))
    peak = memory.read()  # on CUDA this waits for the device
    run.step += 1
    return Cost(clock() - start, peak)


def measure(feature: str, options: argparse.Namespace) -> Measured:
    """Steps of the base and the feature, alternating, after one of each that is not counted."""
    sides = [build({}, options), build(FEATURES[feature], options)]
    memory = PeakMemory(sides[0].device)
    costs: list[list[Cost]] = [[], []]
    for pair in range(1 + options.pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            sides[side].model.train()
            costs[side].append(timed_step(sides[side], memory))
    base, changed = (side[1:] for side in costs)
    ratios = [new.seconds / old.seconds for old, new in zip(base, changed, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Measured(
        feature,
        1e3 * statistics.median(cost.seconds for cost in base),
        1e3 * statistics.median(cost.seconds for cost in changed),
        middle,
        low,
        high,
        statistics.median(cost.peak_bytes for cost in base) / 1e6,
        statistics.median(cost.peak_bytes for cost in changed) / 1e6,
    )


def table(found: list[Measured]) -> Iterator[str]:
    """The figures as Markdown."""
    yield "| feature | step, ms | beside the base (quartiles) | peak, MB | beside the base |"
    yield "|---|---|---|---|---|"
    for row in found:
        yield (
            f"| `{row.feature}` | {row.feature_ms:.0f} | {row.ratio:.2f} ({row.ratio_low:.2f} to "
            f"{row.ratio_high:.2f}) | {row.feature_mb:.0f} | {row.feature_mb / row.base_mb:.2f} |"
        )


def page(found: list[Measured], options: argparse.Namespace) -> str:
    """The whole page: where and how it was measured, and the table."""
    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    place = torch.cuda.get_device_name() if cuda else f"CPU, {options.threads} thread(s), CPU time"
    base_ms = statistics.median(row.base_ms for row in found)
    base_mb = statistics.median(row.base_mb for row in found)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return "\n".join(
        [
            "# What each feature costs",
            "",
            f"Written by `benchmarks/features.py` at commit {commit.stdout.strip() or 'unknown'}: {place}, "
            f"torch {torch.__version__}, {options.batch} images a step, {options.pairs} pairs of steps "
            f"for each feature, load {os.getloadavg()[0]:.1f} at the end.",
            "",
            f"The base is {BASE['model.encoder_type']} at {BASE['data.image_size']} px, a predictor of "
            f"{BASE['model.predictor.depth']} blocks, three levels, float32: {base_ms:.0f} ms and a peak of "
            f"{base_mb:.0f} MB a step over what the process holds (medians over all features' runs).",
            "",
            *table(found),
            "",
        ]
    )


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32, help="images of a step (default %(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="steps of each side (default %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument("--only", metavar="TEXT", default="", help="features whose name holds this")
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the page there too")
    parser.add_argument("--one", metavar="FEATURE", choices=FEATURES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pairs < 2:
        parser.error("--pairs: at least 2, for a spread")
    try:
        if options.one:
            print(*measure(options.one, options), sep="\n")
            return 0
    except ConfigError as error:
        parser.error(str(error))
    found = []
    for feature in (name for name in FEATURES if options.only in name):
        done = subprocess.run(
            [sys.executable, __file__, "--one", feature, *shared(options)],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            return done.returncode
        name, *figures = done.stdout.splitlines()
        found.append(Measured(name, *map(float, figures)))
        rows = list(table(found))
        print(*(rows if len(found) == 1 else rows[-1:]), sep="\n", flush=True)
    if not found:
        parser.error(f"--only {options.only}: no feature's name holds this; there are: {', '.join(FEATURES)}")
    if options.write:
        options.write.write_text(page(found, options), encoding="utf-8")
    return 0


def shared(options: argparse.Namespace) -> list[str]:
    """The options that the process of one feature takes as well."""
    names = ("batch", "pairs", "device", "threads")
    return [text for name in names for text in (f"--{name}", str(getattr(options, name)))]


if __name__ == "__main__":
    sys.exit(main())
