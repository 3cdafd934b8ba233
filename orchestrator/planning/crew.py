"""Processes that train the same run side by side, as trials will, and what they achieve together."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from orchestrator.engine.trial import Rate
from orchestrator.planning.measuring import Measuring
from orchestrator.space import ConfigError, RunConfig


@dataclass(frozen=True)
class Load:
    """What so many trials at a time achieve."""

    trials: int
    threads: int
    """Of each."""
    images_per_s: float
    """Of all together, training."""
    images_per_cpu_s: float
    """By CPU second of all their threads, which do not count the time in which others had the core."""
    evaluation_s: float
    steps_per_epoch: int
    process_bytes: int
    """Main memory of the largest."""
    gpu_name: str = ""
    gpu_used_bytes: int = 0
    """Of the GPU's memory what is taken, by them, their contexts and whoever else is on it."""
    gpu_total_bytes: int = 0
    gpu_busy_percent: int = 0

    @classmethod
    def of(cls, rates: Sequence[Rate], threads: int) -> Self:
        """From the processes' answers."""
        first = rates[0]
        return cls(
            trials=len(rates),
            threads=threads,
            images_per_s=sum(rate.images_per_s for rate in rates),
            images_per_cpu_s=sum(rate.images for rate in rates) / sum(rate.cpu_s for rate in rates),
            evaluation_s=max(rate.evaluation_s for rate in rates),
            steps_per_epoch=first.steps_per_epoch,
            process_bytes=max(rate.peak_bytes for rate in rates),
            gpu_name=first.gpu_name,
            gpu_used_bytes=max(rate.gpu_used_bytes for rate in rates),
            gpu_total_bytes=first.gpu_total_bytes,
            gpu_busy_percent=max(rate.gpu_busy_percent for rate in rates),
        )

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Crew:
    """Warm processes of one run; some of them, or all, are measured at a time."""

    def __init__(self, run: RunConfig, on_gpu: bool):
        """On a GPU all share the first one that may be used."""
        self._run, self._gpu = run.model_dump_json(), 0 if on_gpu else None
        self._processes: list[Measuring] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def measure(self, trials: int, threads: int, seconds: float, evaluate: bool = False) -> Load:
        """Let so many train at the same time; ConfigError where one of them cannot, which ends all."""
        try:
            return self._measured(trials, threads, seconds, evaluate)
        except ConfigError:
            # Others have answered what nobody has read, and the next answer has to be to the next question.
            self._processes.clear()
            self._stack.close()
            raise

    def _measured(self, trials: int, threads: int, seconds: float, evaluate: bool) -> Load:
        missing = range(len(self._processes), trials)
        new = [self._stack.enter_context(Measuring("hjepa.rate", self._run, self._gpu)) for _ in missing]
        self._processes += new
        for process in new:
            process.await_ready()
        asked = json.dumps({"seconds": seconds, "threads": threads, "evaluate": evaluate})
        for process in self._processes[:trials]:
            process.say(asked)
        answers = [process.answer() for process in self._processes[:trials]]
        return Load.of([Rate(**answer) for answer in answers], threads)
