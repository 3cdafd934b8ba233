"""Spool records written to an MLflow store, each such that it may be written again."""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from orchestrator.process.lock import exclusive
from orchestrator.tracking.spool import PARENT, SPOOL, Cursor, Record, opening
from orchestrator.tracking.tracking import sqlalchemy_uri

# MLflow's limits: characters, and entities per batch (1000 in all).
PARAM_CHARS, TAG_CHARS, KEY_CHARS = 6000, 8000, 250
BATCH_METRICS, BATCH_PARAMS, BATCH_TAGS = 800, 100, 100

REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_STATE",
    "ENDPOINT_NOT_FOUND",  # as of models on a server before MLflow 3
}
"""MLflow's codes for what will never be taken; anything else may pass at a later attempt."""

KIND = "custom_model_development"
"""What MLflow's pages take an experiment for: they show the runs of a training, not traces of an agent."""

log = logging.getLogger("drainer")


class Delivery:
    """An open MLflow store and the sweep's place in it; keeps `cursor` but for its offset.

    Building it and its methods raise MlflowException, SQLAlchemyError or OSError when the store is not
    there; all may then be repeated from the cursor.
    """

    def __init__(self, folder: Path, uri: str, cursor: Cursor):
        first = opening(folder / SPOOL)
        assert first, "a drainer is started after the spool was opened"
        self._sweep: str = first["sweep"]
        self._cursor = cursor
        database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
        if database:
            create_database(database)
        self._client = MlflowClient(sqlalchemy_uri(uri))
        beside = database or folder if "://" in uri and not uri.startswith("http") else None
        self._experiment_id = self._open_experiment(first["experiment"], beside)
        if not self._has_parent():
            log.info("the store has nothing of sweep %s: delivering all of it", self._sweep)
            cursor.rewind()

    def deliver(self, records: Iterable[Record]) -> None:
        """Write `records` in order, epochs of one run together. What MLflow refuses is logged and counted."""
        refused_before = self._cursor.refused
        epochs: dict[str, list[Record]] = {}
        for record in records:
            match record["kind"]:
                case "epoch":
                    epochs.setdefault(record["trial"], []).append(record)
                    continue
                case "open":
                    self._log_all_epochs(epochs)
                    # Whatever runs at this point was left by a driver that died.
                    self.end_running(record["time_ms"])
                    continue
                case "start" | "end":
                    self._log_epochs(record["trial"], epochs.pop(record["trial"], []))
            self._attempt(record)
        self._log_all_epochs(epochs)
        if self._cursor.refused != refused_before:
            count = {"hjepa.refused_records": self._cursor.refused}
            self._refusal(lambda: self._log(self._run_id(PARENT), tags=count))

    def end_running(self, time_ms: int | None = None) -> None:
        """End as KILLED every run of the sweep that its driver left running."""
        for trial in list(self._cursor.running):
            run_id = self._cursor.runs[trial]
            # Refused for a run that somebody has deleted.
            self._refusal(partial(self._client.set_terminated, run_id, "KILLED", time_ms))
            self._cursor.running.remove(trial)

    def _attempt(self, record: Record) -> None:
        writers = {"start": self._start, "end": self._end, "artifact": self._attach, "model": self._add_model}
        write = writers.get(record["kind"])
        if write is None:
            self._refuse(record, "not a record that this version knows")
        elif refusal := self._refusal(lambda: write(record)):
            self._refuse(record, refusal)

    def _start(self, record: Record) -> None:
        trial = record["trial"]
        run = self._run(trial, record["time_ms"])
        if trial not in self._cursor.running:
            self._client.update_run(run.info.run_id, status="RUNNING")
            self._cursor.running.append(trial)
        known = run.data.params
        params = {_key(key): _text(value, PARAM_CHARS) for key, value in record["params"].items()}
        changed = {f"hjepa.changed.{key}": v for key, v in params.items() if known.get(key, v) != v}
        new = {key: value for key, value in params.items() if key not in known}
        self._log(run.info.run_id, params=new, tags=record["tags"] | changed)
        if "dataset" in record:
            # MLflow takes the same one of the same run once.
            given = DatasetInput(Dataset(**record["dataset"]), [InputTag("mlflow.data.context", "training")])
            self._client.log_inputs(run.info.run_id, [given])

    def _end(self, record: Record) -> None:
        trial = record["trial"]
        run_id = self._run_id(trial, record["time_ms"])
        self._log(run_id, metrics=_metrics(record, step=0), tags=record["tags"])
        self._client.set_terminated(run_id, record["status"], record["time_ms"])
        if trial in self._cursor.running:
            self._cursor.running.remove(trial)

    def _attach(self, record: Record) -> None:
        path, run_id = Path(record["path"]), self._run_id(PARENT, record["time_ms"])
        attach = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self._store(record, lambda: attach(run_id, str(path), record["under"] or None))

    def _add_model(self, record: Record) -> None:
        from orchestrator.tracking.feature_model import (
            log_feature_model,  # imports pandas, a second that few need
        )

        own = self._client, self._experiment_id, self._run_id(record["trial"], record["time_ms"])
        self._store(record, lambda: log_feature_model(*own, Path(record["path"]), record["step"]))

    def _store(self, record: Record, write: Callable[[], object]) -> None:
        """Run `write`, which reads files of the sweep's and writes to the artifact store."""
        try:
            write()
        except MlflowException:
            raise
        except Exception as error:  # noqa: BLE001 - artifact stores raise kinds of their own (boto3, azure, ...)
            self._refuse(record, error)

    def _log_all_epochs(self, epochs: dict[str, list[Record]]) -> None:
        for trial, records in epochs.items():
            self._log_epochs(trial, records)
        epochs.clear()

    def _log_epochs(self, trial: str, records: Sequence[Record]) -> None:
        if not records:
            return
        run_id = self._run_id(trial, records[0]["time_ms"])
        metrics = [metric for record in records for metric in _metrics(record, record["epoch"])]
        refusal = self._refusal(lambda: self._log(run_id, metrics=metrics))
        if refusal and len(records) == 1:
            self._refuse(records[0], refusal)
        elif refusal:
            for record in records:
                self._log_epochs(trial, [record])

    def _log(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Write to a run in as few batches as MLflow's limits allow."""
        for metric_batch, param_batch, tag_batch in zip_longest(
            _batches(metrics, BATCH_METRICS),
            _batches([Param(key, value) for key, value in (params or {}).items()], BATCH_PARAMS),
            _batches([RunTag(_key(k), _text(v, TAG_CHARS)) for k, v in (tags or {}).items()], BATCH_TAGS),
            fillvalue=(),
        ):
            self._client.log_batch(run_id, metric_batch, param_batch, tag_batch, synchronous=True)

    def _run_id(self, trial: str, time_ms: int | None = None) -> str:
        return self._cursor.runs.get(trial) or self._run(trial, time_ms).info.run_id

    def _run(self, trial: str, time_ms: int | None) -> Run:
        """The trial's run: the cursor's, or the one with its tags, or a new one."""
        if run_id := self._cursor.runs.get(trial):
            return self._client.get_run(run_id)
        run = self._find_run(trial) or self._create_run(trial, time_ms)
        self._cursor.runs[trial] = run.info.run_id
        return run

    def _find_run(self, trial: str) -> Run | None:
        filter_string = " and ".join(f"tags.`{key}` = '{value}'" for key, value in self._tags(trial).items())
        return next(iter(self._client.search_runs([self._experiment_id], filter_string, max_results=1)), None)

    def _create_run(self, trial: str, time_ms: int | None) -> Run:
        tags = self._tags(trial)
        if trial != PARENT:
            tags["mlflow.parentRunId"] = self._run_id(PARENT, time_ms)
        run = self._client.create_run(self._experiment_id, time_ms, tags, run_name=trial or self._sweep)
        self._cursor.running.append(trial)
        return run

    def _tags(self, trial: str) -> dict[str, str]:
        """The tags that name a run of the sweep."""
        own = {"hjepa.run": "sweep"} if trial == PARENT else {"hjepa.run": "trial", "hjepa.trial": trial}
        return {"hjepa.sweep": self._sweep, **own}

    def _open_experiment(self, name: str, beside: Path | None) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # MLflow's default is ./mlruns in whatever directory the process was started from.
            location = (beside.parent / "mlartifacts" / quote(name, safe="")).as_uri() if beside else None
            return self._client.create_experiment(name, location, {"mlflow.experimentKind": KIND})
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id

    def _has_parent(self) -> bool:
        """False if the store has lost the parent run, or never had one."""
        if PARENT not in self._cursor.runs:
            return False
        try:
            self._client.get_run(self._cursor.runs[PARENT])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _refusal(self, write: Callable[[], object]) -> MlflowException | None:
        """Run `write`; returns the store's refusal, if it refused for good.

        A proxy before a dead server answers with the same codes: it is a refusal only if the store still
        shows the parent run, and raised if not.
        """
        try:
            write()
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self._client.get_run(self._run_id(PARENT))
            return error
        return None

    def _refuse(self, record: Record, reason: object) -> None:
        self._cursor.refused += 1
        named = {key: record[key] for key in ("kind", "trial", "epoch", "path") if key in record}
        log.error("refused %s: %s", named, reason)


def create_database(path: Path) -> None:
    """Make MLflow's SQLite database at `path`, whole or not at all, unless it is there.

    MLflow's own first use takes two seconds; a kill in their second half leaves a database that never opens
    again, and several processes at once break it too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(f"{path.name}.lock")):
        if path.exists():
            return
        new = path.with_name(f"{path.name}.new")
        for leftover in (new, new.with_name(f"{new.name}-journal")):
            leftover.unlink(missing_ok=True)
        MlflowClient(sqlalchemy_uri(f"sqlite:///{new}")).search_experiments(max_results=1)
        new.replace(path)


def _metrics(record: Record, step: int) -> list[Metric]:
    return [Metric(_key(key), value, record["time_ms"], step) for key, value in record["metrics"].items()]


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _key(name: str) -> str:
    """`name` in the characters and the length that MLflow allows."""
    return re.sub(r"[^/\w.\- :]", "_", name)[:KEY_CHARS]


def _text(value: object, limit: int) -> str:
    """`value` as text: a string as it is, else JSON; cut visibly at `limit` characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= limit:
        return text
    note = f"... (cut, {len(text)} characters)"
    return text[: limit - len(note)] + note
