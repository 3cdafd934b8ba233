"""How a sweep is asked to stop: Ctrl-C and its like, once to stop well, twice to leave now."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, a scheduler's end, and its warning."""
GRACE_S = 5.0
"""Seconds that running trials have to end their epoch, and with it to save it."""
CLOSE_S = 9.0
"""Seconds from being asked within which the records are closed."""
SAME_S = 0.3
"""Seconds in which a second signal is the first one's echo: `timeout` signals a process and its group."""


class Stop:
    """Whether a sweep shall stop; within `with` it listens to the signals that say so."""

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self.by = ""
        self.twice = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals; again after Tune, which takes SIGUSR1 for itself at its start."""
        for number in self._before:
            signal.signal(number, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked_at is None:
            self.asked_at, self.by = time.monotonic(), signal.Signals(number).name
        elif time.monotonic() - self.asked_at > SAME_S:
            self.twice = True
            raise KeyboardInterrupt

    @property
    def asked(self) -> bool:
        """Whether to begin nothing more."""
        return self.asked_at is not None

    @property
    def overdue(self) -> bool:
        """Whether to wait for running trials no longer."""
        return self.asked_at is not None and time.monotonic() - self.asked_at > GRACE_S

    def time_left(self) -> float:
        """Seconds left to close the records."""
        if self.asked_at is None:
            return CLOSE_S - GRACE_S
        return 0.0 if self.twice else max(1.0, self.asked_at + CLOSE_S - time.monotonic())

    def check(self) -> None:
        """Raise KeyboardInterrupt where the sweep shall stop."""
        if self.asked:
            raise KeyboardInterrupt

    def pause(self, seconds: float) -> None:
        """Sleep, unless the sweep shall stop: then KeyboardInterrupt."""
        if wait_for(lambda: self.asked, seconds):
            raise KeyboardInterrupt


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether `condition` comes true within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(0.1, left))
    return True
