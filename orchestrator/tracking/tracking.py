"""MLflow's record of a sweep, the driver's side: every call is one line in a spool on local disk.

`orchestrator.tracking.drainer`, a process of its own, carries the spool to MLflow. The driver imports no
mlflow and touches no network, so a slow or dead server costs the sweep nothing.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from orchestrator.process.imports import own_imports
from orchestrator.process.stopping import wait_for
from orchestrator.storage.disk import Patience
from orchestrator.tracking.spool import PARENT, SPOOL, SpoolWriter, opening, read, undelivered

__all__ = ["Status", "Tracker", "drain", "undelivered"]

LOG = "tracking.log"
VARIABLE = "HJEPA_TRACKING_URI"
"""Environment variable that hands a store's URL to a process of ours: a command line would show it."""
RESTART_S = 30.0

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """The sweep's record in MLflow, through a spool that never blocks.

    Opening it again on the same folder goes on with the same spool and the same runs. When the driver
    dies, the drainer delivers what is spooled, ends the runs still open as KILLED and exits; a later
    `start_sweep` and `start_trial` put them back to RUNNING under their run ids.

    Methods wait, by `patience`, where the local disk is full.
    """

    def __init__(
        self,
        folder: Path,
        uri: str,
        experiment: str,
        sweep_id: str,
        patience: Patience | None = None,
    ):
        """Open the spool in `folder` and start the drainer.

        `uri` is MLflow's: sqlite:///PATH (relative to the current directory), http(s)://[USER:PASSWORD@]HOST
        or a database URL. `sweep_id` names the sweep in the store and must be unique there.

        Raises ValueError for a file store, which MLflow 3 no longer has, and for a folder that holds the
        spool of another sweep.
        """
        self._folder, self._uri = folder, absolute_uri(uri)
        folder.mkdir(parents=True, exist_ok=True)
        _check_owner(folder / SPOOL, sweep_id)
        self._patience = patience or Patience()
        self._spool = SpoolWriter(folder / SPOOL)
        self._session = uuid.uuid4().hex
        self._append("open", session=self._session, sweep=sweep_id, experiment=experiment)
        self._start_drainer()

    def start_sweep(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the parent run, or reopen it. Parameters are kept as JSON text, strings as they are."""
        self._log("start", trial=PARENT, params=dict(params), tags=dict(tags))

    def start_trial(
        self,
        trial_id: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        dataset: Mapping[str, str] | None = None,
    ) -> None:
        """Open the trial's run below the parent, or reopen it. `dataset` has the fields of MLflow's Dataset.

        MLflow never changes a parameter: one that differs from the first start becomes the tag
        `hjepa.changed.<key>`.
        """
        given: dict[str, Any] = {} if dataset is None else {"dataset": dict(dataset)}
        self._log("start", trial=trial_id, params=dict(params), tags=dict(tags), **given)

    def log_epoch(
        self, trial_id: str, epoch: int, metrics: Mapping[str, float], timestamp_ms: int | None = None
    ) -> None:
        """Record an epoch's metrics at step `epoch`; the time is Unix milliseconds, now if not given.

        The same epoch with the same time and values, logged twice, stands once in MLflow. NaN is kept as
        NaN; SQL stores keep an infinity as the largest float.
        """
        values = {key: float(value) for key, value in metrics.items()}
        self._log("epoch", timestamp_ms, trial=trial_id, epoch=epoch, metrics=values)

    def end_trial(self, trial_id: str, status: Status, tags: Mapping[str, str]) -> None:
        """Close the trial's run."""
        self._log("end", trial=trial_id, status=status, tags=dict(tags), metrics={})

    def log_artifact(self, path: Path, under: str = "") -> None:
        """Attach a file or folder to the parent run, below the artifact folder `under`.

        It is read when the drainer gets to it and must stay until then; one that is missing, or that the
        artifact store refuses, is named in the log.
        """
        self._log("artifact", path=str(path.absolute()), under=under)

    def log_model(self, trial_id: str, example: Path, step: int) -> None:
        """Log the features function beside `example` as a model of the trial's run, of its epoch `step`.

        It is read when the drainer gets to it, as an artifact is.
        """
        self._log("model", trial=trial_id, path=str(example.absolute()), step=step)

    def end_sweep(self, status: Status, tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Close the parent run; `metrics` stand at step 0."""
        values = {key: float(value) for key, value in metrics.items()}
        self._log("end", trial=PARENT, status=status, tags=dict(tags), metrics=values)

    def spooled(self) -> dict[str, set[int | str]]:
        """What the spool holds of each trial: its epochs, "start", and "end" where it is over for good."""
        found: dict[str, set[int | str]] = {}
        for _, record in read(self._folder / SPOOL):
            known = found.setdefault(record.get("trial", PARENT), set())
            match record["kind"]:
                case "epoch":
                    known.add(record["epoch"])
                case "start":
                    known.add("start")
                case "end" if record["status"] != "KILLED":
                    known.add("end")
        return found

    def close(self, timeout_s: float, hurry: Callable[[], bool] = lambda: False) -> int:
        """Wait up to `timeout_s`, or until `hurry`, for the drainer to deliver the rest; leave no process.

        Returns the number of records not delivered; they stay in the spool for `drain` or a resume.
        """
        self._spool.close()
        if self._drainer.poll() is not None:
            self._restart_drainer()
        _finish(self._drainer, timeout_s, hurry)
        return undelivered(self._folder)

    def leave(self, timeout_s: float, hurry: Callable[[], bool]) -> None:
        """Close the spool, and wait no longer than that: the drainer delivers the rest and ends by itself."""
        self._spool.close()
        if self._drainer.stdin:
            self._drainer.stdin.close()
        if not wait_for(lambda: self._drainer.poll() is not None or hurry(), timeout_s) or hurry():
            self._drainer.returncode = 0  # else Python warns of a child that is meant to outlive it

    def _log(self, kind: str, time_ms: int | None = None, **fields: Any) -> None:
        self._append(kind, time_ms, **fields)
        if self._drainer.poll() is not None and time.monotonic() > self._restart_at:
            self._restart_drainer()

    def _append(self, kind: str, time_ms: int | None = None, **fields: Any) -> None:
        now_ms = time_ms if time_ms is not None else time.time_ns() // 1_000_000
        record = {"kind": kind, "time_ms": now_ms, **fields}
        self._patience(lambda: self._spool.append(record))

    def _restart_drainer(self) -> None:
        _finish(self._drainer, timeout_s=0)
        self._start_drainer()

    def _start_drainer(self) -> None:
        self._drainer = _spawn(self._folder, self._uri, self._session, stdin=subprocess.PIPE)
        self._restart_at = time.monotonic() + RESTART_S


def drain(folder: Path, uri: str, timeout_s: float, hurry: Callable[[], bool] = lambda: False) -> int:
    """Deliver the spool that a sweep left in `folder`; returns the number of records not delivered.

    To be called while the sweep does not run: runs that are still open are ended as KILLED. A store other
    than the sweep's own gets the whole record. Gives up after `timeout_s`, or once `hurry`.
    Raises FileNotFoundError if there is no spool.
    """
    if not (folder / SPOOL).exists():
        raise FileNotFoundError(f"{folder / SPOOL}: no such tracking spool")
    drainer = _spawn(folder, absolute_uri(uri), "", subprocess.DEVNULL, "--patience", str(timeout_s))
    _finish(drainer, timeout_s, hurry)
    return undelivered(folder)


def absolute_uri(uri: str) -> str:
    """`uri` with a relative SQLite path made absolute. ValueError for a file store and for no URL."""
    allowed = "Allowed: sqlite:///PATH, http://HOST, https://HOST, or a database URL (postgresql://...)"
    try:
        scheme = urlsplit(uri).scheme
    except ValueError:  # whose words may hold the password
        raise ValueError(f"tracking uri: is no URL. {allowed}") from None
    if scheme in ("", "file") and uri != "databricks":
        raise ValueError(f"tracking uri {uri!r}: MLflow 3 keeps no records in plain folders. {allowed}")
    if scheme == "sqlite":
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri


def sqlalchemy_uri(uri: str) -> str:
    """`uri` as SQLAlchemy, and so MLflow, has to be given it: what is a path here is part of a URL there."""
    path = uri.removeprefix("sqlite:///")
    if path == uri or not {"%", "?"} & set(path):
        return uri
    from sqlalchemy.engine import make_url  # takes a while to import

    if make_url("sqlite:///%25").database != "%":  # before 2.1, where no % had a meaning
        return uri
    # By the shortest way: MLflow makes the folders of a path before anything is decoded.
    return "sqlite:///" + os.path.relpath(path).replace("%", "%25").replace("?", "%3F")


def bare_uri(uri: str) -> str:
    """`uri` without what may be secret: its password, and what follows a question mark."""
    parts = urlsplit(uri)
    if parts.scheme == "sqlite" or (parts.password is None and not parts.query):
        return uri
    user, _, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{name}@{host}" if name else host, query="", fragment=""))


def without_credentials(uri: str) -> str:
    """`uri` without user, password and query."""
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":  # urlunsplit would take two of its four slashes
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _check_owner(spool: Path, sweep_id: str) -> None:
    first = opening(spool)
    if first and first["sweep"] != sweep_id:
        raise ValueError(f"{spool}: belongs to sweep {first['sweep']!r}, not to {sweep_id!r}")


def _spawn(folder: Path, uri: str, session: str, stdin: int, *more: str) -> subprocess.Popen[bytes]:
    """Start a drainer; it takes the end of its standard input for the end of the driver."""
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator.tracking.drainer", str(folder.absolute()), session, *more],
            env=_environment(uri),
            stdin=stdin,
            stdout=log,
            stderr=log,
            # Ctrl-C at the terminal is for the driver; the drainer still has to deliver.
            start_new_session=True,
        )


def _environment(uri: str) -> dict[str, str]:
    """The drainer's environment. Credentials go this way only: a command line is public, a log stays."""
    return os.environ | {
        VARIABLE: uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "DO_NOT_TRACK": "true",
        # The drainer retries by itself; MLflow's own retries block for minutes per call.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "PYTHONUNBUFFERED": "1",
        **own_imports(),
    }


def _finish(
    drainer: subprocess.Popen[bytes], timeout_s: float, hurry: Callable[[], bool] = lambda: False
) -> None:
    if drainer.stdin:
        drainer.stdin.close()
    wait_for(lambda: drainer.poll() is not None or hurry(), timeout_s)
    if drainer.poll() is None:
        drainer.kill()
        drainer.wait()
