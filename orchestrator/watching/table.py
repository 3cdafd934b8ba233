"""The table of a sweep, from its record alone, for the sweep itself and for `status --watch`."""

import heapq
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from orchestrator.reporting.caption import NONE, counted, describe, number
from orchestrator.study.record import TrialRecord
from orchestrator.watching.status import Status, duration

DATA_WAIT = "time/data_wait"
STOPPED = 5
"""Trials shown of those that have ended, the newest."""
WINDOW_S = 120.0
"""Throughput is that of so many seconds before the newest report."""
BARS = "▁▂▃▄▅▆▇█"
SPARK = 12


class SweepTable:
    """All that is to be seen of a sweep, at the measures of the terminal it is drawn on."""

    def __init__(self, status: Status, notes: Sequence[str] = ()):
        self.status, self.notes = status, notes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return self.parts(options)

    def parts(self, options: ConsoleOptions) -> Iterator[Text]:
        """What it is made of from top to bottom."""
        width, height = options.max_width, options.height or options.size.height
        head = [*(Text(note, "yellow") for note in self.notes), *_head(self.status)]
        tail = [*_rungs(self.status), *_ended(self.status)]
        room = height - 2 - len(tail) - sum(math.ceil(line.cell_len / width) for line in head)
        yield from head
        for line in (*_open_trials(self.status, max(1, room)), *tail):
            line.no_wrap, line.overflow = True, "ellipsis"
            yield line


def _head(status: Status) -> list[Text]:
    figures = [("best", status.best), ("base", status.base)]
    values = [f"{name} {_value(status, record)}" for name, record in figures if record]
    speed = speed_of(status.trials)
    lines = [Text(f"{status.name}  {duration(status.took)}  {status.line(best=False)}", "bold")]
    if values:
        lines.append(Text(f"{status.metric}: {'; '.join(values)}"))
    if speed is not None:
        waited = "" if speed.data_wait is None else f", data_wait {speed.data_wait:.1%}"
        lines.append(
            Text(f"{speed.epochs_per_min:.3g} epochs/min, {speed.images_per_s:,.0f} images/s{waited}")
        )
    return lines + [Text(line) for line in status.budgets()]


def _value(status: Status, record: TrialRecord) -> str:
    last = record.last(status.metric)
    return "no value yet" if last is None else f"{number(last[1])} (trial {record.id}, epoch {last[0]})"


def _open_trials(status: Status, room: int) -> list[Text]:
    """Those that are not over, the ones that run first."""
    found = [record for record in status.trials if record.outcome is None]
    if not found:
        return []
    found.sort(key=lambda record: (status.state_of(record) != "running", record.number))
    # What a narrow terminal cuts off comes last.
    rows = [("trial", "epoch", status.metric, "state", "left", "", "values")]
    rows += [_cells(status, record) for record in found[:room]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    columns = list(zip("<>><><<", widths, strict=True))
    lines = [
        Text(
            "  ".join(
                f"{cell:{side}{width}}" for cell, (side, width) in zip(row, columns, strict=True)
            ).rstrip()
        )
        for row in rows
    ]
    lines[0].style = "bold"
    more = len(found) - room
    return [*lines, *([Text(f"and {more} more")] if more > 0 else [])]


def _cells(status: Status, record: TrialRecord) -> tuple[str, ...]:
    last, left = record.last(status.metric), time_left(record, status.max_epochs)
    state = status.state_of(record)
    return (
        record.id,
        f"{max(record.reports, default=0)}/{status.max_epochs}",
        NONE if last is None else number(last[1]),
        state,
        "-" if left is None or state != "running" else duration(left),
        sparkline([m[status.metric] for _, m in sorted(record.reports.items()) if status.metric in m]),
        describe(record, status.keys),
    )


def _rungs(status: Status) -> list[Text]:
    """How many trials have reached each rung, and the value that it took to be among the best there."""
    sign, lines = 1 if status.mode == "max" else -1, []
    for rung in status.rungs:
        values = sorted(
            (
                sign * value
                for record in status.trials
                if record.role != "confirm"
                and (value := record.reports.get(rung, {}).get(status.metric)) is not None
                and math.isfinite(value)
            ),
            reverse=True,
        )
        text = f"rung at epoch {rung}: {counted(len(values), 'trial')}"
        if values:
            places = max(1, len(values) // status.reduction_factor)
            cut = sign * values[places - 1]
            text += f", the best {places} at {number(cut)} or {'above' if sign > 0 else 'below'}"
        lines.append(Text(text))
    return lines


def _ended(status: Status) -> list[Text]:
    """What has ended last, and why."""
    over = (record for record in status.trials if record.outcome is not None)
    newest = heapq.nlargest(STOPPED, over, key=lambda record: (_ended_at(record), record.number))
    lines = []
    for record in reversed(newest):
        reason = f" ({record.reason})" if record.reason else ""
        state = status.state_of(record)
        text = f"{record.id} {state}{reason}, {_value(status, record).partition(' (')[0]}"
        lines.append(Text(f"{text}  {describe(record, status.keys)}", "dim" if state == "pruned" else ""))
    return lines


def _ended_at(record: TrialRecord) -> float:
    """By its last report; one without any counts as the oldest."""
    return record.facts[max(record.facts)].time_ms if record.facts else 0


def sparkline(values: Sequence[float], length: int = SPARK) -> str:
    """The newest values as bars between their least and greatest; what is not finite is a blank."""
    shown = list(values)[-length:]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    heights = [
        (value - low) / span * (len(BARS) - 1) if span and math.isfinite(value) else 0 for value in shown
    ]
    pairs = zip(shown, heights, strict=True)
    return "".join(BARS[round(height)] if math.isfinite(value) else " " for value, height in pairs)


def time_left(record: TrialRecord, max_epochs: int) -> timedelta | None:
    """Until the trial's last epoch where it goes on as in its newest ones; None before its first report."""
    times = [facts.time_ms / 1000 for _, facts in sorted(record.facts.items())]
    # The median, for an interrupted trial has one gap among them.
    gaps = [after - before for before, after in itertools.pairwise(times)][-8:]
    if not gaps and record.reports:
        gaps = [m["time/epoch_s"] for m in record.reports.values() if "time/epoch_s" in m]
    if not gaps:
        return None
    return timedelta(seconds=statistics.median(gaps) * (max_epochs - max(record.reports)))


@dataclass(frozen=True)
class Speed:
    """What the trials together get done."""

    epochs_per_min: float
    images_per_s: float
    data_wait: float | None = None
    """Share of their time that steps waited for images, the median of those reports; None: not reported."""


def speed_of(trials: Sequence[TrialRecord]) -> Speed | None:
    """Over the newest two minutes of reports; None where there are fewer than three."""
    own = [record for record in trials if record.origin is None]
    since = max(map(_ended_at, own), default=0) - 1000 * WINDOW_S
    recent = sorted(
        (facts.time_ms / 1000, _images(record.reports[epoch]), record.reports[epoch].get(DATA_WAIT, math.nan))
        for record in own
        if _ended_at(record) > since  # which of many trials are few
        for epoch, facts in record.facts.items()
        if facts.time_ms > since
    )
    span = recent[-1][0] - recent[0][0] if recent else 0.0
    if len(recent) < 3 or span <= 0:
        return None
    # The first report marks where the span begins; its own work lies before.
    waits = [wait for _, _, wait in recent if not math.isnan(wait)]
    return Speed(
        60 * (len(recent) - 1) / span,
        sum(images for _, images, _ in recent[1:]) / span,
        statistics.median(waits) if waits else None,
    )


def _images(metrics: Mapping[str, float]) -> float:
    """Images of an epoch."""
    return metrics.get("time/images_per_s", 0.0) * metrics.get("time/epoch_s", 0.0)
