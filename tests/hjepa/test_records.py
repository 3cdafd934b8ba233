import json
import shutil
import signal
import sqlite3
import struct
import sys
import warnings
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hjepa.records import (
    JsonLines,
    LoggingConfig,
    MlflowConfig,
    Outcome,
    Records,
    TensorboardConfig,
    WandbConfig,
)
from hjepa.schema import ConfigError

METRICS = {"val/knn_top1": 0.5, "train/loss": 2.0}


PICTURE = Image.fromarray(np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3))


def drawn(config: LoggingConfig, folder: Path) -> None:
    records = Records(config, folder, {"seed": 42})
    records.draw(3, {"masks": PICTURE})
    records.close()


def recorded(config: LoggingConfig, folder: Path) -> None:
    records = Records(config, folder, {"seed": 42})
    records.write(1, 10, METRICS)
    records.write(2, 20, METRICS)
    records.close()


def test_every_epoch_is_one_json_line(tmp_path: Path) -> None:
    recorded(LoggingConfig(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 10), (2, 20)]
    assert lines[0].items() >= METRICS.items()


def test_unwanted_and_torn_lines_are_dropped(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.keep(lambda record: False)
    for epoch in (1, 2, 3):
        lines.write({"epoch": epoch})
    with lines.path.open("a") as file:
        file.write('{"epoch": 4, "tr')
    lines.keep(lambda record: record["epoch"] <= 2)
    assert lines.path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def events(folder: Path) -> list[Any]:
    """Every value of the event files, each with its step, in order."""
    from tensorboardX.proto import event_pb2

    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:  # TFRecord: length as uint64, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found += [(event, value) for value in event.summary.value] or [(event, None)]
    return found


def test_tensorboard_gets_every_metric_by_epoch(tmp_path: Path) -> None:
    recorded(LoggingConfig(tensorboard=TensorboardConfig(enabled=True)), tmp_path)
    found = {(v.tag, event.step): v.simple_value for event, v in events(tmp_path / "tensorboard") if v}
    assert found == {(name, epoch): value for name, value in METRICS.items() for epoch in (1, 2)}


def test_tensorboard_shows_pictures_and_the_description(tmp_path: Path) -> None:
    config = LoggingConfig(tensorboard=TensorboardConfig(enabled=True), description="why it was run")
    drawn(config, tmp_path)
    values = {v.tag: (event.step, v) for event, v in events(tmp_path / "tensorboard") if v}
    step, picture = values["pictures/masks"]
    assert step == 3
    shown = Image.open(BytesIO(picture.image.encoded_image_string))
    assert np.array_equal(np.asarray(shown), np.asarray(PICTURE))
    (text,) = values["description/text_summary"][1].tensor.string_val
    assert text.decode() == "why it was run"


def test_tensorboard_no_longer_shows_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    config = LoggingConfig(tensorboard=TensorboardConfig(enabled=True))
    recorded(config, tmp_path)
    Records(config, tmp_path, {}, after=1).close()
    marked = [event for event, value in events(tmp_path / "tensorboard") if value is None]
    assert [event.step for event in marked if event.session_log.status] == [2]


def test_pictures_are_files_named_by_epoch(tmp_path: Path) -> None:
    drawn(LoggingConfig(), tmp_path)
    shown = Image.open(tmp_path / "pictures" / "masks_00003.png")
    assert np.array_equal(np.asarray(shown), np.asarray(PICTURE))


def test_a_resumed_run_goes_on_after_its_epoch_with_each_once(tmp_path: Path) -> None:
    recorded(LoggingConfig(), tmp_path)
    records = Records(LoggingConfig(), tmp_path, {}, after=1)
    records.write(2, 25, METRICS)
    records.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 10), (2, 25)]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which W&B keeps all that it writes."""
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("WANDB_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_wandb_keeps_a_run_on_disk_when_it_is_offline(offline: Path, tmp_path: Path) -> None:
    recorded(LoggingConfig(wandb=WandbConfig(enabled=True, tags=("tiny",))), tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"val/knn_top1" in file.read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_wandb_keeps_pictures_and_the_description(offline: Path) -> None:
    drawn(LoggingConfig(wandb=WandbConfig(enabled=True), description="why it was run"), offline)
    (file,) = offline.glob("wandb/offline-run-*/run-*.wandb")
    assert b"why it was run" in file.read_bytes()
    (picture,) = offline.glob("wandb/offline-run-*/files/media/images/pictures/masks_*.png")
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(PICTURE))


@pytest.mark.parametrize(
    ("section", "config", "package"),
    [
        ("tensorboard", LoggingConfig(tensorboard=TensorboardConfig(enabled=True)), "tensorboardX"),
        ("wandb", LoggingConfig(wandb=WandbConfig(enabled=True)), "wandb"),
        ("mlflow", LoggingConfig(mlflow=MlflowConfig(enabled=True)), "mlflow"),
    ],
)
def test_a_missing_package_is_named_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, config: Any, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"logging\.{section}\.enabled: .*pip install {package}"):
        Records(config, tmp_path, {})


# MLflow

# Of SQLAlchemy's newest versions on what MLflow does.
of_mlflow = pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's database, which takes seconds to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "empty.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_config(empty_store: Path, tmp_path: Path) -> LoggingConfig:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = MlflowConfig(enabled=True, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="tries")
    return LoggingConfig(experiment_name="one", description="why it was run", mlflow=store)


def runs(config: LoggingConfig) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(config.mlflow.tracking_uri)
    experiment = client.get_experiment_by_name("tries")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def history(config: LoggingConfig, run: Any, metric: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    found = MlflowClient(config.mlflow.tracking_uri).get_metric_history(run.info.run_id, metric)
    return [(value.step, value.value) for value in found]


@of_mlflow
@pytest.mark.parametrize(
    ("outcome", "status"), [("done", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_mlflow_has_parameters_by_dotted_key_and_each_epochs_metrics(
    mlflow_config: LoggingConfig, tmp_path: Path, outcome: Outcome, status: str
) -> None:
    settings = {"seed": 42, "model": {"fpn": {"use_fpn": True}}, "loss": {"hierarchy_weights": [1.0, 0.5]}}
    records = Records(mlflow_config, tmp_path / "run", settings)
    (run,) = runs(mlflow_config)
    assert run.info.status == "RUNNING"
    records.write(1, 10, METRICS)
    records.write(2, 20, METRICS | {"train/loss": 1.5})
    records.close(outcome)
    (run,) = runs(mlflow_config)
    assert (run.info.run_name, run.info.status) == ("one", status)
    assert run.data.tags["mlflow.note.content"] == "why it was run"
    assert run.data.params == {
        "seed": "42",
        "model.fpn.use_fpn": "True",
        "loss.hierarchy_weights": "[1.0, 0.5]",
    }
    assert history(mlflow_config, run, "train/loss") == [(1, 2.0), (2, 1.5)]


@of_mlflow
def test_mlflow_takes_more_parameters_and_metrics_than_fit_a_batch(
    mlflow_config: LoggingConfig, tmp_path: Path
) -> None:
    records = Records(mlflow_config, tmp_path / "run", {f"key{i}": i for i in range(250)})
    records.write(1, 10, {f"gradients/{i}": float(i) for i in range(250)})
    records.close()
    (run,) = runs(mlflow_config)
    assert len(run.data.params) == len(run.data.metrics) == 250


@of_mlflow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_transaction_of_mlflow_waits_for_its_end(
    mlflow_config: LoggingConfig, tmp_path: Path, number: signal.Signals
) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def interrupt(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("INSERT INTO metrics"):
            event.remove(Engine, "after_cursor_execute", interrupt)
            signal.raise_signal(number)

    records = Records(mlflow_config, tmp_path / "run", {"seed": 42})
    event.listen(Engine, "after_cursor_execute", interrupt)
    before = signal.signal(number, signal.default_int_handler)  # as hjepa-train takes both
    try:
        with pytest.raises(KeyboardInterrupt):
            records.write(1, 10, METRICS)
    finally:
        signal.signal(number, before)
    records.close("interrupted")
    (run,) = runs(mlflow_config)
    assert run.info.status == "KILLED"
    assert history(mlflow_config, run, "train/loss") == [(1, 2.0)]


@of_mlflow
def test_mlflow_goes_on_with_the_run_that_is_resumed(mlflow_config: LoggingConfig, tmp_path: Path) -> None:
    records = Records(mlflow_config, tmp_path / "run", {"seed": 42, "training": {"epochs": 2}})
    records.write(1, 10, METRICS)
    records.close("interrupted")
    records = Records(mlflow_config, tmp_path / "run", {"seed": 42, "training": {"epochs": 9}}, after=1)
    records.write(2, 20, METRICS)
    records.close("done")
    (run,) = runs(mlflow_config)
    assert run.info.status == "FINISHED"
    assert history(mlflow_config, run, "val/knn_top1") == [(1, 0.5), (2, 0.5)]
    assert run.data.tags["changed.training.epochs"] == "9"


@of_mlflow
def test_mlflow_goes_on_with_the_run_that_begins_again_in_its_folder(
    mlflow_config: LoggingConfig, tmp_path: Path
) -> None:
    Records(mlflow_config, tmp_path / "run", {"seed": 42})  # and dies
    Records(mlflow_config, tmp_path / "run", {"seed": 42}).close("done")
    (run,) = runs(mlflow_config)
    assert run.info.status == "FINISHED"
    # Of another store, which does not know that run.
    (tmp_path / "run" / "mlflow_run").write_text("0" * 32)
    Records(mlflow_config, tmp_path / "run", {"seed": 42}).close("done")
    assert {run.info.run_id, (tmp_path / "run" / "mlflow_run").read_text()} == {
        found.info.run_id for found in runs(mlflow_config)
    }


@of_mlflow
def test_a_store_that_fails_on_the_way_loses_nothing_and_stops_nothing(
    mlflow_config: LoggingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "mlflow.db"
    records = Records(mlflow_config, tmp_path / "run", {})
    with closing(sqlite3.connect(database)) as store:
        store.execute("ALTER TABLE metrics RENAME TO away")
        store.commit()
    records.write(1, 10, METRICS)
    records.write(2, 20, METRICS)
    told = capsys.readouterr().err
    assert told.count("has not taken 2 values") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    with closing(sqlite3.connect(database)) as store:
        store.execute("ALTER TABLE away RENAME TO metrics")
        store.commit()
    records.close("done")
    (run,) = runs(mlflow_config)
    assert run.info.status == "FINISHED"
    assert history(mlflow_config, run, "train/loss") == [(1, 2.0), (2, 2.0)]


def test_a_server_that_is_not_there_is_told_before_training(tmp_path: Path) -> None:
    store = MlflowConfig(enabled=True, tracking_uri="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"tracking_uri: http://127\.0\.0\.1:9 cannot be written"):
        Records(LoggingConfig(mlflow=store), tmp_path, {})
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("uri", ["http://me:secret@host", "postgresql://me:secret@host/db"])
def test_a_password_is_refused_since_configs_are_recorded(uri: str) -> None:
    with pytest.raises(ValueError, match="no place for a password"):
        MlflowConfig(tracking_uri=uri)


def test_a_folder_is_no_store() -> None:
    with pytest.raises(ValueError, match="tracking_uri"):
        MlflowConfig(tracking_uri="./mlruns")
