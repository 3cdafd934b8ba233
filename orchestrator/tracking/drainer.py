"""The drainer: `python -m orchestrator.tracking.drainer FOLDER SESSION` carries a sweep's spool to MLflow.

It is the one process that writes there for the sweep. Delivery may be cut off anywhere and repeated:
runs are found by tags before they are made, MLflow takes the same (key, step, time, value) once, and
statuses are repeated in order. It ends when the driver has ended and the spool is delivered, or when a
minute passes after the driver's end in which nothing could be delivered; or, where whoever started it lives
and waits for that, its patience.
"""

import argparse
import logging
import os
import select
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn, TextIO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.process.lock import exclusive
from orchestrator.tracking.delivery import Delivery
from orchestrator.tracking.spool import SPOOL, Cursor, Record, read
from orchestrator.tracking.tracking import bare_uri, without_credentials

LOCK = "tracking.lock"
POLL_S = 0.3
WINDOW = 500
"""Records taken at once: their epochs share batches, and they are what a crash makes to be repeated."""
BACKOFF_S = (0.5, 30.0)
GIVE_UP_S = 60.0

log = logging.getLogger("drainer")


class Leash(threading.Thread):
    """Notices the driver's end, and then ends a drainer that gets nothing delivered for `GIVE_UP_S`.

    A thread, because calls into MLflow can block for longer than that.
    """

    def __init__(self, patience_s: float = GIVE_UP_S):
        """`patience_s` counts instead while the process that started this one lives."""
        super().__init__(daemon=True)
        self._patience_s = patience_s
        self.driver_gone = threading.Event()
        self._driver_pid = os.getppid()
        self._progress_s = time.monotonic()

    def progress(self) -> None:
        self._progress_s = time.monotonic()

    def rest(self, seconds: float) -> None:
        """Sleep, but not through the driver's end; after it, no longer than a second."""
        if self.driver_gone.is_set():
            time.sleep(min(seconds, 1.0))
        else:
            self.driver_gone.wait(seconds)

    def run(self) -> None:
        # The driver never writes: its pipe turns readable at its end. The parent's pid stands in where
        # a fork of the driver keeps the pipe open.
        while self._is_waited_for() and not select.select([sys.stdin], [], [], 1.0)[0]:
            pass
        self.progress()
        self.driver_gone.set()
        while (waited_s := time.monotonic() - self._progress_s) < self._limit_s():
            time.sleep(0.5)
        self._give_up(waited_s)

    def _is_waited_for(self) -> bool:
        return os.getppid() == self._driver_pid

    def _limit_s(self) -> float:
        return self._patience_s if self._is_waited_for() else GIVE_UP_S

    def _give_up(self, waited_s: float) -> NoReturn:
        log.error("giving up: the sweep has ended and nothing was delivered for %.0f s", waited_s)
        os._exit(1)


def drain(folder: Path, uri: str, session: str, leash: Leash) -> None:
    """Deliver the folder's spool until the driver has gone and all is delivered.

    Stops where a driver later than `session` has opened the spool: its own drainer goes on from there.
    Without a session, everything is delivered. `uri` is as the sweep was given it, with its secrets.
    """
    cursor = _cursor(folder, uri)
    delivery, failures = None, 0
    while True:
        last = leash.driver_gone.is_set()  # before reading: nothing is appended after the driver's end
        try:
            if delivery is None:
                _go_beside_database(uri)
                delivery = Delivery(folder, logged_in(uri), cursor)
            window = list(read(folder / SPOOL, cursor.offset, WINDOW))
            mine = until_next_session(window, cursor.session, session)
            if mine:
                delivery.deliver([record for _, record in mine])
                cursor.advance(mine)
                cursor.save(folder)
            elif window:
                return
            elif last:
                delivery.end_running()
                cursor.save(folder)
                return
        except (MlflowException, SQLAlchemyError, OSError) as error:
            delivery, cursor, failures = None, _cursor(folder, uri), failures + 1
            if failures.bit_count() == 1:  # a dead server makes few lines, however long it is dead
                log.warning("not delivered, attempt %d: %s", failures, _first_line(error))
            leash.rest(min(BACKOFF_S[1], BACKOFF_S[0] * 2 ** min(failures - 1, 10)))
            continue
        if failures:
            log.info("delivering again after %d failed attempts", failures)
        failures = 0
        leash.progress()
        if not mine:
            leash.rest(POLL_S)


def _cursor(folder: Path, uri: str) -> Cursor:
    """The folder's cursor; a new one if the folder's speaks of another store, which gets everything."""
    store, shown = without_credentials(uri), bare_uri(uri)
    cursor = Cursor.load(folder)
    lost = cursor is not None and cursor.offset > (folder / SPOOL).stat().st_size  # the spool was cut
    if cursor is None or cursor.store != store or lost:
        cursor = Cursor(store)
    if cursor.uri != shown:
        cursor.uri = shown
        cursor.save(folder)
    return cursor


def _go_beside_database(uri: str) -> None:
    """Next to a database's file no name of a folder has to stand in its URL."""
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).parent
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)


def logged_in(uri: str) -> str:
    """`uri` as MLflow takes it: who logs in to a server stands in this process's environment from now on."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.username:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    if parts.password is not None:  # else the environment may hold it
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def until_next_session(
    window: list[tuple[int, Record]], current: str, session: str
) -> list[tuple[int, Record]]:
    """The part of `window` that the drainer of `session` may deliver; `current` is the cursor's session."""
    for i, (_, record) in enumerate(window):
        if record["kind"] == "open":
            if session and current == session and record["session"] != session:
                return window[:i]
            current = record["session"]
    return window


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"


class _Redacted:
    """A text stream that never shows a URL's password, whoever logs it."""

    def __init__(self, stream: TextIO, password: str):
        self._stream, self._secrets = stream, (password, unquote(password), quote(password, safe=""))

    def write(self, text: str) -> int:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.tracking.drainer", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("session")
    parser.add_argument("--patience", type=float, default=GIVE_UP_S, metavar="S")
    arguments = parser.parse_args()
    uri = os.environ["HJEPA_TRACKING_URI"]
    if password := urlsplit(uri).password:
        sys.stdout = sys.stderr = _Redacted(sys.stderr, password)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    os.nice(10)
    leash = Leash(arguments.patience)
    leash.start()
    folder = arguments.folder.absolute()
    with exclusive(folder / LOCK):
        drain(folder, uri, arguments.session, leash)


if __name__ == "__main__":
    main()
