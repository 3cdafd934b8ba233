"""MLflow's record of a single run."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

from PIL.Image import Image

from hjepa.records.config import LoggingConfig
from hjepa.records.sinks import Outcome, require_package
from hjepa.schema import ConfigError

# MLflow's limits: characters, and entities per batch.
_PARAM_CHARS, _BATCH = 6000, 100
_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MlflowSink:
    """A run at MLflow: parameters by dotted key, metrics at step = epoch.

    A run that goes on, or begins again, in its folder keeps the id that it had. A store that fails on the
    way does not stop the training: what it did not take is offered again with the next epoch, and what is
    left at the end is said; the files have it all.
    """

    def __init__(self, config: LoggingConfig, folder: Path, settings: Mapping[str, Any]):
        """Raises ConfigError where the package is missing or the store cannot be reached."""
        # By itself MLflow tries for minutes before it gives a dead server up.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        mlflow = require_package("mlflow", "logging.mlflow")
        require_package("sqlalchemy", "logging.mlflow")
        self._entities: Any = require_package("mlflow.entities", "logging.mlflow")
        errors = require_package("sqlalchemy.exc", "logging.mlflow")
        self._errors = (mlflow.exceptions.MlflowException, errors.SQLAlchemyError, OSError)
        self._store = uri = config.mlflow.tracking_uri
        self._pending: list[Any] = []
        self._told = False
        try:
            database = _database(uri)
            self._own_database = database is not None
            self._client = mlflow.MlflowClient(f"sqlite:///{database}" if database else uri)
            self._run_id = self._open(config, folder, database)
            self._describe(config, settings)
        except self._errors as error:
            raise ConfigError(
                f"logging.mlflow.tracking_uri: {self._store} cannot be written: {_first_line(error)}.\n"
                "Mend that, or --set logging.mlflow.enabled=false."
            ) from None

    def write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._pending += [self._entities.Metric(_key(k), v, now_ms, epoch) for k, v in metrics.items()]
        self._deliver()

    def draw(self, epoch: int, name: str, picture: Image) -> None:
        """Pictures stay in the folder of the records."""

    def close(self, outcome: Outcome) -> None:
        self._told = False
        if not self._deliver():
            return
        try:
            with self._whole():
                self._client.set_terminated(self._run_id, _STATUS[outcome])
        except self._errors as error:
            self._tell(error)

    def _open(self, config: LoggingConfig, folder: Path, database: Path | None) -> str:
        """The run's id, of a new run or of the one that the folder has had, where the store knows it."""
        known = folder / "mlflow_run"
        if known.exists():
            run_id = known.read_text(encoding="utf-8").strip()
            try:
                self._client.update_run(run_id, status="RUNNING")
                return run_id
            except self._errors as error:
                if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
                    raise
        name = config.mlflow.experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            # MLflow's default is ./mlruns in whatever directory the process was started from.
            beside = database.parent / "mlartifacts" / quote(name, safe="") if database else None
            experiment_id = self._client.create_experiment(name, beside.as_uri() if beside else None)
        run_id = self._client.create_run(experiment_id, run_name=config.experiment_name).info.run_id
        folder.mkdir(parents=True, exist_ok=True)
        known.write_text(run_id, encoding="utf-8")
        return run_id

    def _describe(self, config: LoggingConfig, settings: Mapping[str, Any]) -> None:
        if config.description is not None:
            self._client.set_tag(self._run_id, "mlflow.note.content", config.description)
        known = self._client.get_run(self._run_id).data.params
        texts = {key: str(value)[:_PARAM_CHARS] for key, value in _dotted(settings) if value is not None}
        for key, text in texts.items():  # MLflow never changes a parameter
            if known.get(key, text) != text:
                self._client.set_tag(self._run_id, f"changed.{key}", text)
        new = [self._entities.Param(key, text) for key, text in texts.items() if key not in known]
        for start in range(0, len(new), _BATCH):
            self._client.log_batch(self._run_id, params=new[start : start + _BATCH])

    def _deliver(self) -> bool:
        """Offer what is pending; whether all of it was taken."""
        try:
            while self._pending:
                with self._whole():
                    self._client.log_batch(self._run_id, metrics=self._pending[:_BATCH])
                del self._pending[:_BATCH]
        except self._errors as error:
            self._tell(error)
            return False
        return True

    def _whole(self) -> AbstractContextManager[None]:
        """Within, Ctrl-C and SIGTERM wait: a transaction that they broke off would keep the database locked,
        and the run's end could not be written. A server's answer they do not wait for.
        """
        return _interrupt_later() if self._own_database else nullcontext()

    def _tell(self, error: Exception) -> None:
        if not self._told:
            print(
                f"hjepa-train: MLflow at {self._store} has not taken {len(self._pending)} values: "
                f"{_first_line(error)}. The files have them.",
                file=sys.stderr,
            )
        self._told = True


@contextmanager
def _interrupt_later() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in before:
        signal.signal(number, lambda *given: heard.append(given))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if heard:
            before[signal.Signals(heard[0][0])](*heard[0])


def _database(uri: str) -> Path | None:
    """The file of an SQLite store, its folder made; None of any other store."""
    if not uri.startswith("sqlite:///"):
        return None
    path = Path(uri.removeprefix("sqlite:///")).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _key(name: str) -> str:
    """`name` in the characters that MLflow allows."""
    return re.sub(r"[^/\w.\- :]", "_", name)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
