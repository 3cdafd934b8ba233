"""What a sweep will likely take, before it runs: its trials played through, its epochs measured."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import Any

from orchestrator.budget import Budget, clock
from orchestrator.engine.capacity import places
from orchestrator.planning.forecast import PLAYS, Play, Range, Rates, plays
from orchestrator.planning.packing import Choice
from orchestrator.planning.probe import Probe, probe
from orchestrator.planning.settlement import settle
from orchestrator.reporting.caption import short
from orchestrator.space import ConfigError, Sweep, describe
from orchestrator.space.cost import cost, dearest, sample_costs
from orchestrator.storage.checkpoints import KEPT_CHECKPOINTS

MOST_AT_ONCE = 16
"""Processes that measure at once; of more trials side by side, so many stand for all."""
STARTS = 2.0
"""The start of a sweep in starts of a measuring process: Ray's own, and then its first trials'. Rough."""
REPORT_S = 0.05
"""From a trial's report to its next epoch; a rough figure, not measured."""
CHANGE_S = 0.2
"""From one trial to the next one in a warm process; docs/performance.md has a median of 0.04 to 0.06."""
PLAYED_TRIALS, LEAST_PLAYS = 1000, 5
"""How many trials are played through at the start of a sweep, some tenths of a second, but so many sweeps."""
PLAYED_EPOCHS, MOST_EPOCHS = 60_000, 3_000_000
"""The same in epochs, were none stopped early; where so many sweeps would have more than the second, none is
played: a sweep that a budget shall end may name any number of trials, and has to begin."""
PATIENCE = 50
"""How many times as much whoever asks for a plan waits for."""
UNCERTAINTY = 0.15
"""By how much a measured pace may be off for longer, as a share: what else runs on the machine changes."""


@dataclass(frozen=True)
class Measured:
    """A config, and what its epochs take."""

    values: dict[str, Any]
    """Values of swept keys; none for the base."""
    work: float
    probe: Probe
    epoch_s: float


@dataclass(frozen=True)
class Plan:
    """What a sweep will likely take."""

    sweep: Sweep
    places: int
    """Trials at a time."""
    measured: list[Measured]
    """The base, and the dearest configurations by time and by memory."""
    epochs: Range
    completed: Range
    reached: dict[int, float]
    """Of the search's trials, how many get to each rung, in the median."""
    wall_s: Range
    worker_hours: Range
    packing: Choice | None = None
    """Where `resources.pack` is auto, the choice that was measured for it."""

    @property
    def peak_bytes(self) -> int:
        """Main memory of the largest trial."""
        return max(one.probe.peak_bytes for one in self.measured) * self.sweep.config.resources.workers

    @property
    def disk_bytes(self) -> Range:
        """Checkpoints at the end, and those of running trials."""
        size = max(one.probe.checkpoint_bytes for one in self.measured)
        under_way = KEPT_CHECKPOINTS * self.places
        ends = (self.completed.median, self.completed.low, self.completed.high)
        return Range(*(size * (number + under_way) for number in ends))

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        resources = self.sweep.config.resources
        hours = asdict(self.worker_hours)
        return {
            "name": self.sweep.config.name,
            "trials": self.sweep.num_trials,
            "confirm_runs": self.sweep.num_confirmations,
            "places": self.places,
            "packing": self.packing.data() if self.packing else None,
            "space": describe(self.sweep),
            "measured": [asdict(one) for one in self.measured],
            "epochs": asdict(self.epochs),
            "trials_at_rung": {str(rung): count for rung, count in self.reached.items()},
            "wall_s": asdict(self.wall_s),
            "worker_hours": hours,
            "gpu_hours": {name: value * resources.gpus for name, value in hours.items()},
            "peak_bytes_of_a_trial": self.peak_bytes,
            "peak_bytes": self.peak_bytes * self.places,
            "gpu_peak_bytes": max(one.probe.gpu_peak_bytes for one in self.measured),
            "disk_bytes": asdict(self.disk_bytes),
            "budgets": self._budgets(),
        }

    def words(self) -> str:
        """A page of it."""
        resources = self.sweep.config.resources
        hours = self.worker_hours
        gpus = f", {_times(hours, resources.gpus).shown(_two)} GPU-hours"
        lines = [
            *describe(self.sweep),
            "",
            *([self.packing.words] if self.packing else []),
            f"measured here, {self.places} at a time, {_workers(resources.workers)} each:",
            *(f"  {_measured(one)}" for one in self.measured),
            "",
            _epochs(self.sweep, self.epochs, self.reached),
            f"wall time: {self.wall_s.shown(clock)}",
            f"cost: {hours.shown(_two)} worker-hours" + (gpus if resources.gpus else ""),
            f"memory: {size(self.peak_bytes)} a trial, {size(self.peak_bytes * self.places)} in all",
            f"disk: {self.disk_bytes.shown(size)} of checkpoints",
            *self._budgets(),
        ]
        return "\n".join(lines)

    def _budgets(self) -> list[str]:
        """Whether the budgets suffice."""
        budget, found = Budget.of(self.sweep), []
        for key, whole, needed in (
            ("search.time_budget", budget.time_s, self.wall_s),
            ("search.cost_budget", budget.cost_h, self.worker_hours),
        ):
            if whole is not None:
                is_enough = (
                    "is enough" if whole >= needed.high else "may end the search before its last trial"
                )
                found.append(f"{key}: {is_enough if whole >= needed.low else 'will end the search early'}")
        return found


def plan(sweep: Sweep, say: Callable[[str], None] = lambda text: None) -> Plan:
    """Measure on this machine and play the sweep through; `say` hears how far it is. Writes nothing.

    Raises ConfigError where a trial does not fit here or cannot be measured, and for a sweep that is too long
    to be played through.
    """
    count = _plays(sweep, PATIENCE)
    if not count:
        few = MOST_EPOCHS // LEAST_PLAYS // sweep.max_epochs - 1 - sweep.num_confirmations
        raise ConfigError(
            f"{sweep.path}: {sweep.num_trials} trials of {sweep.max_epochs} epochs are too many to be played "
            "through" + (f"; --trials {few} plans as many as can be." if few > 0 else ".")
        )
    settled = settle(sweep, None, say)
    sweep = settled.sweep
    resources = sweep.config.resources
    at_a_time = places(resources)
    configs: list[dict[str, Any]] = []
    for values in ({}, dearest(sweep, "work"), dearest(sweep, "memory_bytes")):
        if values not in configs:
            configs.append(values)
    measured = []
    for number, values in enumerate(configs, start=1):
        say(f"measuring {_named(sweep, values)}, {number} of {len(configs)}")
        run = sweep.resolve(values)
        found = probe(run, resources, min(at_a_time, MOST_AT_ONCE), baselines=not values)
        measured.append(Measured(values, cost(run).work, found, found.epoch_s(run.evaluation.eval_frequency)))
    say("playing the sweep through")
    rates = _rates(measured, sample_costs(sweep))
    return _plan(sweep, at_a_time, measured, plays(sweep, at_a_time, rates, count), settled.choice)


def outlook(sweep: Sweep, at_a_time: int) -> str:
    """What is known of a sweep at its start without measuring: its space, and its epochs played through."""
    count = _plays(sweep)
    if count:
        found = plays(sweep, at_a_time, Rates(base_epoch_s=1.0, epoch_s=[1.0]), count)
        epochs = _epochs(sweep, Range.of([one.epochs for one in found]), _reached(sweep, found))
    else:
        epochs = f"epochs: at most {_full(sweep)}, too many to be played through"
    lines = [*describe(sweep), "", f"{epochs}, {at_a_time} trials at a time"]
    return "\n".join([*lines, "seconds, memory and disk: hjepa-sweep plan measures them", ""])


def _epochs(sweep: Sweep, epochs: Range, reached: dict[int, float]) -> str:
    rungs = "".join(f"; {count:g} trials get to epoch {rung}" for rung, count in reached.items())
    return f"epochs: {epochs.shown(_whole)} of {_full(sweep)} without early stopping{rungs}"


def _plays(sweep: Sweep, patience: int = 1) -> int:
    """How many times a sweep is played through; 0 where it is too long for that."""
    full = _full(sweep)
    if LEAST_PLAYS * full > MOST_EPOCHS:
        return 0
    enough = min(PLAYS, patience * PLAYED_TRIALS // sweep.num_trials, patience * PLAYED_EPOCHS // full)
    return max(LEAST_PLAYS, enough)


def _full(sweep: Sweep) -> int:
    """Epochs of all trials, were none stopped early."""
    return (sweep.num_trials + 1 + sweep.num_confirmations) * sweep.max_epochs


def _reached(sweep: Sweep, found: Sequence[Play]) -> dict[int, float]:
    return {rung: median(one.reached[rung] for one in found) for rung in sweep.rungs}


def _rates(measured: Sequence[Measured], works: Sequence[float]) -> Rates:
    """Epoch times of trials with these amounts of work, on the line through what was measured."""
    base = measured[0]
    dear = max(measured, key=lambda one: one.work)
    slope = 0.0
    if dear.work > base.work:
        slope = max(0.0, (dear.epoch_s - base.epoch_s) / (dear.work - base.work))
    epochs = [max(0.1 * base.epoch_s, base.epoch_s + slope * (work - base.work)) for work in works]
    return Rates(
        base_epoch_s=base.epoch_s + REPORT_S,
        epoch_s=[seconds + REPORT_S for seconds in epochs],
        baselines_s=base.probe.baselines_s,
        start_s=STARTS * base.probe.build_s,
        change_s=CHANGE_S + mean(one.probe.step_s for one in measured),
    )


def _plan(
    sweep: Sweep, at_a_time: int, measured: list[Measured], found: Sequence[Play], packing: Choice | None
) -> Plan:
    workers = sweep.config.resources.workers
    return Plan(
        sweep=sweep,
        places=at_a_time,
        measured=measured,
        epochs=Range.of([one.epochs for one in found]),
        completed=Range.of([one.completed for one in found]),
        reached=_reached(sweep, found),
        wall_s=Range.of([one.wall_s for one in found], UNCERTAINTY),
        worker_hours=Range.of([one.worker_s * workers / 3600 for one in found], UNCERTAINTY),
        packing=packing,
    )


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _named(sweep: Sweep, values: dict[str, Any]) -> str:
    shown = ", ".join(f"{short(key, values, 1)}={label}" for key, label in sweep.labels(values).items())
    return f"the dearest configuration ({shown})" if values else "the base config"


def _measured(one: Measured) -> str:
    found = one.probe
    name = (
        "base config"
        if not one.values
        else "dearest: " + ", ".join(f"{k} {v}" for k, v in one.values.items())
    )
    memory = f"peak {size(found.peak_bytes)}"
    if found.gpu_peak_bytes:
        memory += f", {size(found.gpu_peak_bytes)} on the GPU"
    return (
        f"{name}: {one.epoch_s:.2f} s an epoch ({found.steps} steps of {found.step_s * 1000:.0f} ms, "
        f"evaluation {found.evaluation_s:.2f} s); {memory}; checkpoint {size(found.checkpoint_bytes)}"
    )


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"one of {count} workers, without their talk,"


def _times(found: Range, factor: float) -> Range:
    return Range(found.median * factor, found.low * factor, found.high * factor)


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _two(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"  # thousands of hours without an exponent
