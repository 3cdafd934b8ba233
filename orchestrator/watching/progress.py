"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live

from orchestrator.reporting.caption import NONE, describe, number
from orchestrator.storage.disk import tell
from orchestrator.study.record import TrialRecord

if TYPE_CHECKING:
    from orchestrator.watching.status import Status

HEARTBEAT_S = 10.0
DRAWING_SHARE = 0.05
"""Of the driver's time that the table may take: one of 10,000 trials is drawn less often."""
HELD = "a budget of the search is used up"


@dataclass
class Counts:
    """How far a sweep is."""

    total: int = 0
    """Trials in all: those that are asked for, or as many as there are."""
    ended: dict[str, int] = field(default_factory=dict)
    best: str = ""
    """The best so far in words, with the base beside it."""

    def words(self) -> str:
        """`7 of 24 trials over: 2 completed, 5 pruned`."""
        over = sum(self.ended.values())
        parts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.ended.items()))
        return f"{over} of {self.total} trials over" + (f": {parts}" if parts else "")


class Progress:
    """Base of both kinds, and the kind that shows nothing."""

    def __init__(self, metric: str, max_epochs: int, counts: Counts):
        self.metric, self.max_epochs, self.counts = metric, max_epochs, counts
        self.began = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        """Put the terminal back."""

    def started(self, record: TrialRecord) -> None:
        """A trial has been handed to a process."""

    def reported(self, record: TrialRecord) -> None:
        """A trial has reported an epoch."""

    def put_back(self, record: TrialRecord) -> None:
        """A trial has lost its process, and waits for a place in which to go on."""

    def parked(self, record: TrialRecord, reason: str) -> None:
        """A trial waits at a rung."""

    def ended(self, record: TrialRecord) -> None:
        """A trial is over."""

    def held(self, record: TrialRecord) -> None:
        """A budget holds a trial up."""

    def note(self, text: str) -> None:
        """Something else to know."""

    def elapsed(self) -> str:
        """Time since the start, as 3:07."""
        seconds = int(time.monotonic() - self.began)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def value(self, record: TrialRecord) -> str:
        """The newest objective, or a dash."""
        last = record.last(self.metric)
        return NONE if last is None else number(last[1])


class Lines(Progress):
    """One line per event, and one every ten seconds where nothing else happens."""

    def __enter__(self) -> "Lines":
        self._running: dict[int, TrialRecord] = {}
        self._waiting: dict[int, TrialRecord] = {}
        self._written = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def started(self, record: TrialRecord) -> None:
        self._running[record.number] = record
        self._waiting.pop(record.number, None)
        begins = "begins" if not record.reports else f"goes on after epoch {max(record.reports)}"
        self._write(f"trial {record.id} {begins}: {describe(record)}")

    def reported(self, record: TrialRecord) -> None:
        epoch = max(record.reports, default=0)
        self._write(f"trial {record.id} epoch {epoch}/{self.max_epochs} {self.metric} {self.value(record)}")

    def put_back(self, record: TrialRecord) -> None:
        self._running.pop(record.number, None)
        self._waiting[record.number] = record

    def parked(self, record: TrialRecord, reason: str) -> None:
        self._running.pop(record.number, None)
        self._write(f"trial {record.id} parked ({reason})")

    def ended(self, record: TrialRecord) -> None:
        self._running.pop(record.number, None)
        reason = f" ({record.reason})" if record.reason else ""
        self._write(f"trial {record.id} {record.outcome}{reason}; {self.counts.words()}; {self.counts.best}")

    def held(self, record: TrialRecord) -> None:
        self._running.pop(record.number, None)
        self._write(f"trial {record.id} is held up after epoch {max(record.reports, default=0)}: {HELD}")

    def note(self, text: str) -> None:
        self._write(text)

    def _write(self, text: str) -> None:
        self._written = time.monotonic()
        tell(f"[{self.elapsed()}] {text}")

    def _heartbeat(self) -> None:
        while not self._over.wait(0.5):
            if time.monotonic() - self._written >= HEARTBEAT_S - 1:
                waiting, begun = _with_epochs(self._waiting), self.counts.ended or self._waiting
                running = _with_epochs(self._running) or ("no trial" if begun else "starting")
                parts = [running, f"waiting for a place: {waiting}"] if waiting else [running]
                try:
                    self._write(f"running: {'; '.join([*parts, self.counts.words()])}")
                except OSError:  # whoever read has left: the sweep's own next line ends it
                    return


def _with_epochs(trials: dict[int, TrialRecord]) -> str:
    """`0003 after epoch 5, 0004 after epoch 0`."""
    # Copied, since the heartbeat has a thread of its own.
    return ", ".join(f"{r.id} after epoch {max(r.reports, default=0)}" for r in list(trials.values()))


class LiveTable(Progress):
    """The sweep's table, redrawn in place."""

    def __init__(self, metric: str, max_epochs: int, counts: Counts, look: "Callable[[], Status]"):
        super().__init__(metric, max_epochs, counts)
        self._look = look
        self._notes: list[str] = []
        self._shown: Group | None = None
        self._due = 0.0

    def __enter__(self) -> "LiveTable":
        self._console = Console()
        self._live = Live(console=self._console, refresh_per_second=2, get_renderable=self._render)
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def held(self, record: TrialRecord) -> None:
        self.note(f"trial {record.id} is held up: {HELD}")

    def note(self, text: str) -> None:
        self._notes = [*self._notes, text][-3:]

    def _render(self) -> Group:
        """The table, laid out anew where that does not take more than a share of the driver's time."""
        from orchestrator.watching.table import SweepTable

        began = time.monotonic()
        if self._shown is None or began >= self._due:
            table = SweepTable(self._look(), self._notes)
            self._shown = Group(*table.parts(self._console.options))
            self._due = began + (time.monotonic() - began) / DRAWING_SHARE
        return self._shown


def progress(metric: str, max_epochs: int, counts: Counts, look: "Callable[[], Status]") -> Progress:
    """The kind that suits where standard output goes; the table shows what `look` sees."""
    if sys.stdout.isatty():
        return LiveTable(metric, max_epochs, counts, look)
    return Lines(metric, max_epochs, counts)
