"""What a run's epochs take here: some real steps, an evaluation and a checkpoint, measured.

`python -m hjepa.pace` takes a run config, and a folder for its checkpoint, as a line of JSON on standard
input, says `ready` when the run is built, measures at the next line, and answers with a line of JSON; so
that several can measure at once.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from hjepa.config import RunConfig
from hjepa.judge import baselines, evaluate
from hjepa.run import Run, build_run, random_stream
from hjepa.schema import ConfigError, Layers
from hjepa.step import train_step

WARM_STEPS = 2
MOST_STEPS = 20
MOST_S = 8.0
"""Seconds after which no further step is measured."""


@dataclass(frozen=True)
class Pace:
    """What was measured."""

    steps: int
    """Optimizer steps of an epoch."""
    step_s: float
    """Mean of the measured steps."""
    step_spread: float
    """Their standard deviation, as a share of the mean."""
    evaluation_s: float
    save_s: float
    """Writing a checkpoint."""
    build_s: float
    """From the process's start until its run was built."""
    baselines_s: float
    """What the first report of a base config takes besides."""
    checkpoint_bytes: int
    peak_bytes: int
    """Most of main memory that the process has held."""
    gpu_peak_bytes: int


def measure_pace(
    run: Run, steps: int, build_s: float = 0.0, with_baselines: bool = False, folder: Path | None = None
) -> Pace:
    """Train `run` for some steps, evaluate and save it; an epoch has `steps` of them. Leaves it changed.

    The checkpoint is removed again; it is below `folder`, None: the system's for temporary files.
    """
    for data in {run.data, run.probe_data or run.data}:
        data.fill()  # once in a run, so no part of what an epoch takes
    measured = _measured_steps(run, min(run.steps_per_epoch, MOST_STEPS + WARM_STEPS))
    evaluation_s = _seconds(run, lambda: evaluate(run))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "checkpoint.pt"
        save_s = _seconds(run, lambda: run.save(path))
        checkpoint_bytes = path.stat().st_size
    return Pace(
        steps=steps,
        step_s=statistics.mean(measured),
        step_spread=statistics.pstdev(measured) / statistics.mean(measured),
        evaluation_s=evaluation_s,
        save_s=save_s,
        build_s=build_s,
        baselines_s=_seconds(run, lambda: baselines(run.config)) if with_baselines else 0.0,
        checkpoint_bytes=checkpoint_bytes,
        peak_bytes=peak_bytes(),
        gpu_peak_bytes=torch.cuda.max_memory_allocated() if run.device.type == "cuda" else 0,
    )


def alone(config: RunConfig) -> RunConfig:
    """The part of a run that one of its processes computes, as a run of its own."""
    if not config.distributed.enabled:
        return config
    layers = Layers()
    layers.add(config.model_dump(mode="json"), "the run")
    layers.set("data.batch_size", config.data.batch_size // (config.distributed.world_size or 1), "the run")
    layers.set("distributed.enabled", False, "the run")
    return layers.build(RunConfig, "the run")


def _measured_steps(run: Run, count: int) -> list[float]:
    """Seconds of each step but the first ones, which warm up; of the only one where there is one."""
    order = run.data.mixture.order(run.steps_per_epoch * run.batch)
    batches = np.split(order, run.steps_per_epoch)[:count]
    warm, taken, began = min(WARM_STEPS, count - 1), [], time.perf_counter()
    run.model.train()
    with random_stream(run.config.seed, 1), run.data.train.ahead(batches):
        for batch in batches:
            taken.append(_seconds(run, lambda batch=batch: train_step(run, batch)))
            if len(taken) > warm and time.perf_counter() - began > MOST_S:
                break
    return taken[warm:]


def _seconds(run: Run, action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    elif run.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - begun


def peak_bytes() -> int:
    """The most memory that this process has held at a time."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    """Measure what standard input asks for; the exit status."""
    began = time.perf_counter()
    asked = json.loads(sys.stdin.readline())
    config = RunConfig.model_validate_json(json.dumps(asked["run"]), strict=True)
    try:
        run = build_run(alone(config))
    except (ConfigError, OSError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    steps = len(run.data.train) // (config.data.batch_size * config.training.accumulation_steps)
    print("ready", flush=True)
    if not sys.stdin.readline():
        return 0  # whoever asked has gone
    build_s = time.perf_counter() - began
    pace = measure_pace(run, steps, build_s, asked["baselines"], Path(asked["folder"]))
    print(json.dumps(asdict(pace)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
