"""How many trials shall share a GPU, or a CPU's cores: as many as raise what all achieve together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from orchestrator.planning.crew import Load
from orchestrator.space import ConfigError

RISE = 1.05
"""A larger number is taken where images/s of all together are more than this factor of the smaller one's."""
MOST_AT_ONCE = 16
"""Trials that are tried on one GPU."""
FULL_GPU, FULL_MAIN = 0.95, 0.9
"""Of the GPU's memory, and of the main memory that is free, what trials may be expected to take."""
ROUNDS = 3
"""Times that two numbers of threads are measured in turn."""


@dataclass(frozen=True)
class Choice:
    """A number and what was measured for it."""

    kind: Literal["cuda", "cpu"]
    chosen: int
    """On a GPU the trials that share it, on a CPU the threads of each trial."""
    why: str
    """Why no more."""
    loads: tuple[Load, ...]

    @property
    def words(self) -> str:
        """A line for people."""
        if self.kind == "cpu":
            each = ", ".join(f"{_times(one)} {one.images_per_s:.0f}" for one in self.loads)
            return f"packing: {_threads(self.chosen)} for each trial; images/s of all: {each}; {self.why}"
        first, *more = self.loads
        rest = "".join(f", {one.trials} {one.images_per_s:.0f}" for one in more)
        shared = "1 trial has" if self.chosen == 1 else f"{self.chosen} trials share"
        return (
            f"packing: {shared} each GPU; images/s of all: 1 trial {first.images_per_s:.0f} with the GPU "
            f"{first.gpu_busy_percent} % busy{rest}; {self.why}"
        )

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        loads = [load.data() for load in self.loads]
        return {"kind": self.kind, "chosen": self.chosen, "why": self.why, "measured": loads}

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Choice":
        """From JSON."""
        loads = tuple(Load(**load) for load in data["measured"])
        return cls(data["kind"], data["chosen"], data["why"], loads)


def pack_gpu(
    measure: Callable[[int], Load], most: int, limit: str, free_bytes: float, more_bytes: int = 0
) -> Choice:
    """The number of trials for a GPU, of 1, 2, 4 and so on up to `most`; `limit` says of more why not.

    `measure` gives the load of so many trials, or raises ConfigError where they do not fit. A trial may
    take `more_bytes` more of the GPU's memory than what is measured. `free_bytes` of main memory are for
    this GPU's trials. Raises ConfigError where not even one fits.
    """
    loads = [measure(1)]
    chosen, count, why = loads[0], 2, f"more than {most} {limit}"
    while count <= most:
        crowded = _crowded(loads[-1], count, free_bytes, more_bytes)
        if crowded is not None:
            why = crowded
            break
        try:
            loads.append(measure(count))
        except ConfigError as error:  # above all where memory ends before it was expected to
            why = f"{count} could not run: {str(error).splitlines()[0].rstrip('.')}"
            break
        if loads[-1].images_per_s <= RISE * chosen.images_per_s:
            why = f"{count} gain less than {RISE - 1:.0%}"
            break
        chosen, count = loads[-1], 2 * count
    return Choice("cuda", chosen.trials, why, tuple(loads))


def _crowded(load: Load, count: int, free_bytes: float, more_bytes: int) -> str | None:
    """Which memory would not suffice for `count` trials such as those of `load`; None: both would."""
    on_gpu = count * (load.gpu_used_bytes / load.trials + more_bytes)
    if on_gpu > FULL_GPU * load.gpu_total_bytes:
        return f"{count} would need {_gb(on_gpu)} of the GPU's {_gb(load.gpu_total_bytes)} GB"
    if count * load.process_bytes > FULL_MAIN * free_bytes:
        return f"{count} would need {_gb(count * load.process_bytes)} GB of main memory"
    return None


def split_cores(
    measure: Callable[[int, int], Load], cores: int, free_bytes: float, concurrency: int | None = None,
    more_bytes: int = 0,
) -> Choice:  # fmt: skip
    """The number of threads for a trial, of 1, 2, 4 and so on up to `cores`, with trials on all of them.

    `measure` gives the load of so many trials of so many threads. Numbers of trials that would take more than
    is free of the main memory are left out; a trial may take `more_bytes` more of it than what is measured.
    """
    each = measure(1, 1).process_bytes + more_bytes
    splits = [(min(cores // threads, concurrency or cores), threads) for threads in _doublings(cores)]
    fitting = [split for split in splits if split[0] * each <= FULL_MAIN * free_bytes] or splits[-1:]
    chosen, *others = fitting
    loads = {chosen: measure(*chosen)}
    why = "there is no other split" if len(splits) == 1 else "of others the memory would not suffice"
    for other in others:
        pairs = [(measure(*chosen), measure(*other)) for _ in range(ROUNDS)]
        loads[chosen], loads[other] = (_middle(side) for side in zip(*pairs, strict=True))
        ratio = median(after.images_per_s / before.images_per_s for before, after in pairs)
        why = f"{_times(loads[other])} achieve {ratio:.2f} times of {_times(loads[chosen])}"
        if ratio <= RISE:
            break
        chosen = other
    return Choice("cpu", chosen[1], why, tuple(loads.values()))


def _doublings(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length())]


def _middle(loads: Sequence[Load]) -> Load:
    """The one with the median of images/s."""
    return sorted(loads, key=lambda load: load.images_per_s)[len(loads) // 2]


def _times(load: Load) -> str:
    return f"{load.trials} x {_threads(load.threads)}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}"
