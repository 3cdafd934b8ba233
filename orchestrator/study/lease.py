"""Who runs a sweep that is kept in a database: one process at a time, on whatever machine.

The holder counts a number up while it lives. Where it stands still for long, the holder is dead and another
may take its place. Each watcher measures that by its own monotonic clock, so no two clocks are compared.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Column, Engine, Integer, MetaData, Row, String, Table, insert, select, update
from sqlalchemy.exc import DatabaseError, IntegrityError, SQLAlchemyError

from orchestrator.process.state import boot_id
from orchestrator.space import ConfigError
from orchestrator.study.holder import Holder

BEAT_S = 4.0
STALE_S = 30.0
"""Seconds without a sign of life after which a holder on another machine counts as dead."""
WATCH_S = BEAT_S + 2

_LEASES = Table(
    "hjepa_leases",
    MetaData(),
    Column("name", String(255), primary_key=True),
    Column("token", String(32), nullable=False),
    Column("holder", String(255), nullable=False),
    Column("process", String(255), nullable=False),
    Column("beat", Integer, nullable=False),
)


class Lease:
    """Held while a process runs a sweep."""

    def __init__(self, engine: Engine, name: str, say: Callable[[str], None]):
        """Raises ConfigError, naming the holder, where another process has it."""
        self._engine, self._name, self._token = engine, name, uuid.uuid4().hex
        _make_table(engine)
        self._take(say)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="lease", daemon=True)
        self._thread.start()

    def _take(self, say: Callable[[str], None]) -> None:
        mine = {"token": self._token, "holder": str(Holder.this()), "process": this_process(), "beat": 0}
        seen, since, said = None, time.monotonic(), False
        while True:
            row = _row(self._engine, self._name)
            if row is None:
                try:
                    with self._engine.begin() as connection:
                        connection.execute(insert(_LEASES).values(name=self._name, **mine))
                    return
                except IntegrityError:  # another one was faster
                    continue
            now = (row.token, row.beat)
            alive = _lives(row)
            if alive or (seen is not None and now != seen and row.token):
                raise ConfigError(f"{self._name}: this sweep is running already: {row.holder}.")
            stale = now == seen and time.monotonic() - since > STALE_S
            if not row.token or alive is False or stale:
                if self._replace(row, mine):
                    return
                continue
            if seen is None:
                seen, since = now, time.monotonic()
            if not said and time.monotonic() - since > WATCH_S:
                said = True
                say(
                    f"{self._name}: no sign of life of {row.holder}; without one, it is taken over in "
                    f"{STALE_S - WATCH_S:.0f} s"
                )
            time.sleep(0.5)

    def _replace(self, row: Row, mine: dict[str, object]) -> bool:
        this = (_LEASES.c.name == self._name) & (_LEASES.c.token == row.token) & (_LEASES.c.beat == row.beat)
        with self._engine.begin() as connection:
            return connection.execute(update(_LEASES).where(this).values(**mine)).rowcount == 1

    def _live(self) -> None:
        mine = (_LEASES.c.name == self._name) & (_LEASES.c.token == self._token)
        while not self._over.wait(BEAT_S):
            try:
                with self._engine.begin() as connection:
                    connection.execute(update(_LEASES).where(mine).values(beat=_LEASES.c.beat + 1))
            except SQLAlchemyError:
                continue  # the database is away; who writes next waits for it and asks `lost_to`

    def lost_to(self) -> str | None:
        """Who has taken this lease; None while it is ours."""
        row = _row(self._engine, self._name)
        if row is not None and row.token == self._token:
            return None
        return row.holder if row is not None else "somebody who removed it"

    def release(self) -> None:
        """Let go."""
        self._over.set()
        self._thread.join()
        mine = (_LEASES.c.name == self._name) & (_LEASES.c.token == self._token)
        try:
            with self._engine.begin() as connection:
                connection.execute(update(_LEASES).where(mine).values(token=""))
        except SQLAlchemyError:
            return  # it grows stale


def leaseholder(engine: Engine, name: str) -> Holder | None:
    """Who runs the sweep `name` at this moment; None where nobody does. May watch for some seconds."""
    deadline, first = time.monotonic() + WATCH_S, None
    while True:
        try:
            row = _row(engine, name)
        except DatabaseError:  # no table yet
            return None
        if row is None or not row.token or _lives(row) is False:
            return None
        first = first or row
        if _lives(row) or (row.token, row.beat) != (first.token, first.beat):
            return Holder.parse(row.holder)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.5)


def this_process() -> str:
    """Names this process among all of all machines, in a way that can be checked; empty where it cannot."""
    return _process(os.getpid())


def _process(pid: int) -> str:
    boot = boot_id()
    try:
        # Field 22 counts from behind the command's name, which may hold spaces.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {pid} {started}" if boot else ""
    except (OSError, IndexError):
        return ""


def _lives(row: Row) -> bool | None:
    """Whether a holder lives; None where that cannot be seen from here."""
    theirs, ours = row.process.split(), this_process().split()
    if not row.token or not theirs or not ours or theirs[:2] != ours[:2]:
        return None
    return _process(int(theirs[2])) == row.process


def _row(engine: Engine, name: str) -> Row | None:
    with engine.connect() as connection:
        return connection.execute(select(_LEASES).where(_LEASES.c.name == name)).one_or_none()


def _make_table(engine: Engine) -> None:
    try:
        _LEASES.create(engine, checkfirst=True)
    except DatabaseError:  # another one has just made it
        _LEASES.create(engine, checkfirst=True)
