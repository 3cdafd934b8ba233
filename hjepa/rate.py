"""Images that a run trains by the second here, beside others that do the same.

`python -m hjepa.rate` takes a run config as a line of JSON on standard input, builds it, warms up and says
`ready`. Each further line, such as {"seconds": 1.5, "threads": 2, "evaluate": false}, has it train for so
long on so many threads, and is answered by a `Rate` as a line of JSON; it ends with its standard input.
"""

import contextlib
import json
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from hjepa.config import RunConfig
from hjepa.judge import evaluate
from hjepa.pace import MOST_STEPS, WARM_STEPS, alone, peak_bytes
from hjepa.run import Run, build_run, random_stream
from hjepa.schema import ConfigError
from hjepa.step import train_step


@dataclass(frozen=True)
class Rate:
    """What one process did while others did the same."""

    images: int
    seconds: float
    """From the first step's begin to the last one's end: a step that has begun is finished."""
    cpu_s: float
    """CPU seconds of all its threads meanwhile."""
    evaluation_s: float
    """An evaluation after that; 0 where none was asked for."""
    steps_per_epoch: int
    peak_bytes: int
    """Most of main memory that the process has held."""
    gpu_name: str = ""
    gpu_used_bytes: int = 0
    """Of the GPU's memory, what all processes on it hold, contexts included."""
    gpu_total_bytes: int = 0
    gpu_busy_percent: int = 0
    """Share of the last moments in which something ran on it, by its driver."""

    @property
    def images_per_s(self) -> float:
        """Training alone."""
        return self.images / self.seconds


class Gpu(NamedTuple):
    """What a process sees of the GPU that it is on."""

    gpu_name: str = ""
    gpu_used_bytes: int = 0
    gpu_total_bytes: int = 0
    gpu_busy_percent: int = 0


def measure_rate(
    run: Run, batches: Iterator[np.ndarray], seconds: float, threads: int | None = None, judged: bool = False
) -> Rate:
    """Train `run` on its next batches for `seconds`, at least one step, and evaluate it where `judged`."""
    if threads is not None:
        torch.set_num_threads(threads)
    run.model.train()
    images, cpu, begun = 0, time.process_time(), time.perf_counter()
    while images == 0 or time.perf_counter() - begun < seconds:
        train_step(run, next(batches))
        images += run.batch
        # Else steps would pile up on the device, and the last ones end long after the time is up.
        _wait(run)
    taken, cpu = time.perf_counter() - begun, time.process_time() - cpu
    gpu = _gpu(run)
    begun = time.perf_counter()
    if judged:
        evaluate(run)
        _wait(run)
    evaluation_s = time.perf_counter() - begun if judged else 0.0
    return Rate(images, taken, cpu, evaluation_s, run.steps_per_epoch, peak_bytes(), *gpu)


def endless_batches(run: Run) -> Generator[np.ndarray]:
    """The first batches of an epoch, again and again."""
    order = run.data.mixture.order(run.steps_per_epoch * run.batch)
    batches = np.split(order, run.steps_per_epoch)[: MOST_STEPS + WARM_STEPS]
    while True:
        with run.data.train.ahead(batches):
            yield from batches


def _wait(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    elif run.device.type == "mps":
        torch.mps.synchronize()


def _gpu(run: Run) -> Gpu:
    if run.device.type != "cuda":
        return Gpu()
    free, total = torch.cuda.mem_get_info()
    busy = 0
    with contextlib.suppress(RuntimeError, ModuleNotFoundError):  # a GPU shared out in parts does not tell
        busy = torch.cuda.utilization()
    return Gpu(torch.cuda.get_device_name(), total - free, total, busy)


def main() -> int:
    """Measure what standard input asks for, until it ends; the exit status."""
    config = RunConfig.model_validate_json(sys.stdin.readline(), strict=True)
    try:
        run = build_run(alone(config))
        with random_stream(config.seed, 1), contextlib.closing(endless_batches(run)) as batches:
            for _ in range(WARM_STEPS):
                measure_rate(run, batches, 0.0)
            print("ready", flush=True)
            for line in sys.stdin:
                asked: dict[str, Any] = json.loads(line)
                rate = measure_rate(run, batches, asked["seconds"], asked["threads"], asked["evaluate"])
                print(json.dumps(asdict(rate)), flush=True)
    # What does not fit beside others is an answer too, not a crash.
    except (ConfigError, OSError, torch.OutOfMemoryError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
