"""The tracker against real stores: a SQLite database read back by MLflow's client, real processes killed."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

from orchestrator.cli.going import store_of
from orchestrator.process.lock import exclusive
from orchestrator.tracking.delivery import Delivery
from orchestrator.tracking.drainer import LOCK, until_next_session
from orchestrator.tracking.spool import CURSOR, SPOOL, Cursor, read, undelivered
from orchestrator.tracking.tracking import Tracker, absolute_uri, drain
from tests.orchestrator.tracking.stores import a_short_sweep, answers, history, runs_of, serve, wait_until

# MLflow 3.17's own use of SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def test_a_sweep_stands_in_mlflow_as_it_ran(folder, database, uri):
    tracker = Tracker(folder, uri, "fpn", "fpn-1")
    a_short_sweep(tracker)
    report = folder / "report"
    report.mkdir()
    (report / "effects.csv").write_text("key,effect\n")
    tracker.log_artifact(report, "report")
    tracker.log_artifact(report / "effects.csv")
    tracker.end_sweep("FINISHED", {"best": "t1"}, {"best/val/knn_top1": 0.2})
    assert tracker.close(timeout_s=120) == 0
    # As it was given, so that `resume` and `sync`, which know a sweep by its folder alone, write there too.
    assert Cursor.load(folder).store == uri
    assert store_of(folder, None) == uri

    runs = runs_of(uri)
    assert set(runs) == {"fpn-1", "t1", "t2"}
    parent, t1, t2 = runs["fpn-1"], runs["t1"], runs["t2"]
    assert [run.info.status for run in (parent, t1, t2)] == ["FINISHED", "FINISHED", "KILLED"]
    assert parent.data.params == {"search.num_trials": "2"}
    assert parent.data.tags["best"] == "t1"
    assert history(uri, parent, "best/val/knn_top1") == [(0, 0.2)]
    assert t1.data.params == {"training.lr": "0.001", "model.fpn.use_fpn": "true"}
    assert t1.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert t2.data.tags["outcome"] == "pruned"
    assert history(uri, t2, "val/knn_top1") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    artifacts = Path(parent.info.artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(database.parent / "mlartifacts" / "fpn")
    assert sorted(file.relative_to(artifacts).as_posix() for file in artifacts.rglob("*.csv")) == [
        "effects.csv",
        "report/effects.csv",
    ]


def test_the_default_store_is_made_beside_the_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = Tracker(Path("results/fpn"), "sqlite:///results/mlflow.db", "fpn", "fpn-1")
    tracker.start_sweep({}, {})
    tracker.end_sweep("FINISHED", {}, {})
    assert tracker.close(timeout_s=120) == 0
    parent = runs_of(f"sqlite:///{tmp_path}/results/mlflow.db")["fpn-1"]
    assert parent.info.artifact_uri.startswith((tmp_path / "results/mlartifacts/fpn").as_uri())
    assert [path.name for path in tmp_path.iterdir()] == ["results"], "something was left in the directory"


def test_a_sweep_goes_on_in_the_default_store_that_was_moved_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = Tracker(Path("results/fpn"), "sqlite:///results/mlflow.db", "fpn", "fpn-1")
    a_short_sweep(tracker)
    assert tracker.close(timeout_s=120) == 0
    Path("results").rename("moved")
    store = store_of(Path("moved/fpn"), None)
    assert store == "sqlite:///moved/mlflow.db"
    tracker = Tracker(Path("moved/fpn"), store, "fpn", "fpn-1")
    tracker.start_trial("t3", {}, {})
    tracker.end_trial("t3", "FINISHED", {})
    tracker.end_sweep("FINISHED", {}, {})
    assert tracker.close(timeout_s=120) == 0
    uri = f"sqlite:///{tmp_path}/moved/mlflow.db"
    runs = runs_of(uri)
    assert set(runs) == {"fpn-1", "t1", "t2", "t3"}
    assert history(uri, runs["t1"], "val/knn_top1") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_the_drainer_imports_nothing_from_the_working_folder(folder, uri, tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    tracker = Tracker(folder, uri, "fpn", "fpn-1")
    tracker.end_sweep("FINISHED", {}, {})
    assert tracker.close(timeout_s=120) == 0


@pytest.mark.slow
def test_a_folder_may_have_a_name_that_would_say_something_else_in_a_url(tmp_path, monkeypatch):
    here = tmp_path / "sure? 100%25 #1 'ü'"
    here.mkdir()
    monkeypatch.chdir(here)
    tracker = Tracker(Path("results/fpn"), "sqlite:///results/mlflow.db", "fpn", "fpn-1")
    tracker.start_sweep({}, {})
    tracker.end_sweep("FINISHED", {}, {})
    assert tracker.close(timeout_s=120) == 0
    with closing(sqlite3.connect("results/mlflow.db")) as record:
        assert record.execute("SELECT name, status FROM runs").fetchall() == [("fpn-1", "FINISHED")]
    assert [path.name for path in tmp_path.iterdir()] == [here.name]
    assert {path.name for path in Path("results").iterdir()} == {"fpn", "mlflow.db", "mlflow.db.lock"}


def test_every_value_stands_once_when_the_drainer_is_killed(folder, uri, monkeypatch):
    """Killed at work, before its last delivery reached the cursor; the tracker starts another."""
    monkeypatch.setattr("orchestrator.tracking.tracking.RESTART_S", 0.0)
    tracker = Tracker(folder, uri, "fpn", "fpn-1")
    tracker.start_sweep({}, {})
    tracker.start_trial("t1", {"training.lr": 0.1}, {})
    wait_until(lambda: undelivered(folder) == 0)
    stale = (folder / CURSOR).read_text()
    tracker.start_trial("t2", {"training.lr": 0.2}, {})
    for epoch in range(300):
        tracker.log_epoch("t1", epoch, {"loss": 1 / (epoch + 1)}, 1000 + epoch)
        tracker.log_epoch("t2", epoch, {"loss": 2 / (epoch + 1)}, 1000 + epoch)
    wait_until(lambda: undelivered(folder) < 600)
    tracker._drainer.kill()
    tracker._drainer.wait()
    (folder / CURSOR).write_text(stale)
    tracker.end_trial("t1", "FINISHED", {})
    wait_until(lambda: undelivered(folder) == 0)
    assert tracker.close(timeout_s=120) == 0

    runs = runs_of(uri)
    assert set(runs) == {"fpn-1", "t1", "t2"}
    assert history(uri, runs["t1"], "loss") == [(epoch, 1 / (epoch + 1)) for epoch in range(300)]
    assert history(uri, runs["t2"], "loss") == [(epoch, 2 / (epoch + 1)) for epoch in range(300)]


def test_a_dead_server_costs_nothing_and_a_new_store_gets_everything(
    folder, uri, database, empty_database, dead_uri
):
    tracker = Tracker(folder, dead_uri, "fpn", "fpn-1")
    started = time.monotonic()
    a_short_sweep(tracker, epochs=500)
    tracker.end_sweep("FINISHED", {}, {})
    per_call_s = (time.monotonic() - started) / 1007
    assert per_call_s < 0.02  # 0.1 ms on a machine of its own; a call to a dead server takes minutes
    wait_until(lambda: "not delivered, attempt 1" in (folder / "tracking.log").read_text(), timeout_s=120)

    assert tracker.close(timeout_s=3) == undelivered(folder) == 1007
    assert tracker._drainer.returncode is not None, "a process was left behind"
    assert "not delivered, attempt 1" in (folder / "tracking.log").read_text()

    for _ in range(2):
        assert drain(folder, uri, timeout_s=120) == 0
        runs = runs_of(uri)
        assert [runs[name].info.status for name in ("fpn-1", "t1", "t2")] == [
            "FINISHED",
            "FINISHED",
            "KILLED",
        ]
        assert history(uri, runs["t2"], "val/knn_top1") == [(epoch, epoch / 10) for epoch in range(500)]
        shutil.copy(empty_database, database)  # the store loses what it had


KILLED_DRIVER = """
import os, signal, sys
from pathlib import Path
from orchestrator.tracking.tracking import Tracker
tracker = Tracker(Path(sys.argv[1]), sys.argv[2], "fpn", "fpn-1")
tracker.start_sweep({"search.num_trials": 2}, {})
tracker.start_trial("t1", {"training.lr": 0.1}, {})
tracker.log_epoch("t1", 0, {"loss": 1.0})
print(tracker._drainer.pid, flush=True)
with (Path(sys.argv[1]) / "tracking.jsonl").open("a") as spool:
    spool.write('{"kind":"epoch","tri')
os.kill(os.getpid(), signal.SIGKILL)
"""


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A container without an init keeps the orphan's entry, dead.
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
def test_a_killed_driver_leaves_nothing_running_and_its_resume_goes_on_in_its_runs(folder, uri):
    driver = subprocess.run(
        [sys.executable, "-c", KILLED_DRIVER, str(folder), uri], stdout=subprocess.PIPE, text=True
    )
    assert driver.returncode == -signal.SIGKILL
    wait_until(lambda: gone(int(driver.stdout)))
    assert undelivered(folder) == 0
    before = runs_of(uri)
    assert {run.info.status for run in before.values()} == {"KILLED"}
    assert history(uri, before["t1"], "loss") == [(0, 1.0)]

    resumed = Tracker(folder, uri, "fpn", "fpn-1")
    resumed.start_sweep({"search.num_trials": 4}, {})
    resumed.start_trial("t1", {"training.lr": 0.1}, {})
    resumed.log_epoch("t1", 1, {"loss": 0.5})
    wait_until(lambda: undelivered(folder) == 0)
    assert {run.info.status for run in runs_of(uri).values()} == {"RUNNING"}
    resumed.end_trial("t1", "FINISHED", {})
    resumed.end_sweep("FINISHED", {}, {})
    assert resumed.close(timeout_s=120) == 0

    after = runs_of(uri)
    assert {run.info.run_id for run in after.values()} == {run.info.run_id for run in before.values()}
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert history(uri, after["t1"], "loss") == [(0, 1.0), (1, 0.5)]
    assert after["fpn-1"].data.params == {"search.num_trials": "2"}
    assert after["fpn-1"].data.tags["hjepa.changed.search.num_trials"] == "4"
    assert all(record["kind"] != "damaged" for _, record in read(folder / SPOOL))


def test_what_mlflow_cannot_hold_is_cut_or_counted_visibly(folder, uri):
    tracker = Tracker(folder, uri, "fpn", "fpn-1")
    tracker.start_sweep({"long": "x" * 7000, "keys!": [1, {"a": None}]}, {"long": "y" * 9000})
    tracker.start_trial("t1", {f"p{i}": i for i in range(250)}, {f"tag{i}": str(i) for i in range(150)})
    tracker.log_epoch("t1", 0, {f"m{i}": i for i in range(1500)} | {"nan": math.nan, "inf": -math.inf})
    tracker.log_epoch("t1", 1, {"../escape": 1.0}, 1000)
    tracker.log_epoch("t1", 2, {"m0": 7.0})
    tracker.log_artifact(folder / "missing.csv")
    tracker.end_trial("t1", "FINISHED", {})
    tracker.end_sweep("FINISHED", {}, {})
    assert tracker.close(timeout_s=120) == 0

    runs = runs_of(uri)
    parent, t1 = runs["fpn-1"], runs["t1"]
    assert len(parent.data.params["long"]) == 6000
    assert parent.data.params["long"].endswith("x... (cut, 7000 characters)")
    assert parent.data.params["keys_"] == '[1, {"a": null}]'
    assert parent.data.tags["long"].endswith("y... (cut, 9000 characters)")
    assert parent.data.tags["hjepa.refused_records"] == "2"
    assert len(t1.data.params) == 250
    assert t1.data.tags["tag149"] == "149"
    assert len(t1.data.metrics) == 1502
    assert math.isnan(t1.data.metrics["nan"])
    assert t1.data.metrics["inf"] == -sys.float_info.max
    assert history(uri, t1, "m0") == [(0, 0.0), (2, 7.0)]
    log = (folder / "tracking.log").read_text()
    assert "'epoch': 1" in log
    assert "missing.csv" in log


def test_runs_that_somebody_deleted_hold_up_nothing(folder, uri):
    tracker = Tracker(folder, uri, "fpn", "fpn-1")
    tracker.start_sweep({}, {})
    tracker.start_trial("t1", {}, {})
    tracker.start_trial("t2", {}, {})
    wait_until(lambda: undelivered(folder) == 0)
    MlflowClient(uri).delete_run(runs_of(uri)["t1"].info.run_id)
    tracker.log_epoch("t1", 0, {"loss": 1.0})
    tracker.log_epoch("t2", 0, {"loss": 2.0})
    assert tracker.close(timeout_s=120) == 0
    runs = runs_of(uri)
    assert set(runs) == {"fpn-1", "t2"}
    assert history(uri, runs["t2"], "loss") == [(0, 2.0)]
    assert runs["t2"].info.status == "KILLED"


def test_a_server_that_knows_no_models_holds_up_nothing(folder, uri, dead_uri, tmp_path, monkeypatch):
    def as_before_mlflow_3(*_):
        raise MlflowException("404 != 200", error_code=ENDPOINT_NOT_FOUND)

    name = "orchestrator.tracking.feature_model"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(log_feature_model=as_before_mlflow_3))
    tracker = Tracker(folder, dead_uri, "fpn", "fpn-1")
    tracker.start_sweep({}, {})
    tracker.start_trial("t1", {}, {})
    tracker.log_model("t1", tmp_path / "example.npz", 1)
    tracker.end_trial("t1", "FINISHED", {})
    tracker.end_sweep("FINISHED", {}, {})
    tracker.close(timeout_s=0)
    Delivery(folder, uri, Cursor(uri)).deliver([record for _, record in read(folder / SPOOL)])
    runs = runs_of(uri)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["fpn-1"].data.tags["hjepa.refused_records"] == "1"


def test_two_drainers_never_write_for_one_sweep(folder, uri):
    folder.mkdir()
    with exclusive(folder / LOCK):
        tracker = Tracker(folder, uri, "fpn", "fpn-1")
        tracker.start_sweep({}, {})
        time.sleep(3)
        assert undelivered(folder) == 2
    assert tracker.close(timeout_s=120) == 0


def test_a_dead_drivers_drainer_leaves_a_resumed_session_to_its_own():
    """Else it would end, as left behind, the runs that the resume has reopened."""
    records = [{"kind": "open", "session": "1"}, {"kind": "end"}, {"kind": "open", "session": "2"}]
    window = list(enumerate(records))
    assert until_next_session(window, current="", session="1") == window[:2]
    assert until_next_session(window[2:], current="1", session="1") == []
    assert until_next_session(window, current="", session="2") == window
    assert until_next_session(window, current="", session="") == window


# A drainer of a version that, unless it has to be patient, gives up at once.
PATIENT = """
from orchestrator.tracking import drainer
drainer.GIVE_UP_S = 0.0
drainer.main()
"""


def test_a_drainer_that_is_waited_for_tries_as_long_as_it_is_told(folder, uri, tmp_path):
    tracker = Tracker(folder, uri, "fpn", "fpn-1")
    a_short_sweep(tracker)
    tracker.close(timeout_s=0)
    away = tmp_path / "away"
    away.write_text("a file, where the database's folder should be")
    given = os.environ | {"HJEPA_TRACKING_URI": f"sqlite:///{away / 'mlflow.db'}"}
    with (tmp_path / "said").open("w") as said:
        patient = subprocess.Popen(
            [sys.executable, "-c", PATIENT, str(folder), "", "--patience", "600"],
            env=given,
            stdin=subprocess.DEVNULL,
            stderr=said,
        )
    try:
        wait_until(lambda: "not delivered, attempt 2" in (tmp_path / "said").read_text(), timeout_s=120)
        away.unlink()
        assert patient.wait(60) == 0, (tmp_path / "said").read_text()
    finally:
        patient.kill()
        patient.wait()
    assert undelivered(folder) == 0


def test_a_spool_that_is_sent_later_is_tried_for_as_long_as_was_asked(folder, dead_uri):
    Tracker(folder, dead_uri, "fpn", "fpn-1").close(timeout_s=0)
    lines = []

    def seen():
        found = [line for child in psutil.Process().children() if (line := child.cmdline())]
        lines.extend(line for line in found if "orchestrator.tracking.drainer" in line)
        return bool(lines)

    assert drain(folder, dead_uri, 300, hurry=seen) > 0
    assert lines[0][-2:] == ["--patience", "300"]


@pytest.mark.slow
def test_a_spool_that_was_cut_short_is_delivered_again_from_its_start(folder, uri):
    tracker = Tracker(folder, uri, "fpn", "fpn-1")
    a_short_sweep(tracker)
    assert tracker.close(timeout_s=120) == 0
    size = (folder / SPOOL).stat().st_size
    os.truncate(folder / SPOOL, size * 2 // 3)
    again = Tracker(folder, uri, "fpn", "fpn-1")
    assert 2 not in again.spooled()["t2"]
    again.start_trial("t2", {}, {})
    for epoch in range(3):  # with the times at which they were reported
        again.log_epoch("t2", epoch, {"val/knn_top1": epoch / 10, "train/loss": 1.0}, 1000 + epoch)
    again.end_trial("t2", "FINISHED", {})
    again.end_sweep("FINISHED", {}, {})
    assert again.close(timeout_s=120) == 0
    assert history(uri, runs_of(uri)["t2"], "val/knn_top1") == [(0, 0.0), (1, 0.1), (2, 0.2)]


def test_a_file_store_is_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="Allowed: sqlite:///PATH"):
        absolute_uri("file:./mlruns")


def test_another_sweeps_folder_is_refused(folder, dead_uri):
    Tracker(folder, dead_uri, "fpn", "fpn-1").close(timeout_s=0)
    with pytest.raises(ValueError, match="belongs to sweep 'fpn-1'"):
        Tracker(folder, dead_uri, "fpn", "fpn-2")


def test_the_driver_imports_no_mlflow():
    code = "import sys, orchestrator.tracking.tracking; print('mlflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


@pytest.mark.slow
def test_what_a_stopped_server_missed_arrives_after_its_restart(tmp_path, folder, uri, dead_uri):
    port = int(dead_uri.rpartition(":")[2])
    tracker = Tracker(folder, dead_uri, "fpn", "fpn-1")
    tracker.start_sweep({}, {})
    tracker.start_trial("t1", {}, {})
    for turn in range(2):
        server = serve(port, uri, tmp_path / "server.log")
        try:
            wait_until(lambda: undelivered(folder) == 0, timeout_s=120)
            tracker.log_epoch("t1", 2 * turn, {"loss": 1.0})
            wait_until(lambda: undelivered(folder) == 0, timeout_s=120)
            if turn:
                (folder / "report.html").write_text("report")
                tracker.log_artifact(folder / "report.html")
                tracker.end_trial("t1", "FINISHED", {})
                tracker.end_sweep("FINISHED", {}, {})
                assert tracker.close(timeout_s=120) == 0
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        if not turn:
            wait_until(lambda: not answers(port))
            tracker.log_epoch("t1", 1, {"loss": 1.0})
            time.sleep(2)
            assert undelivered(folder) == 1
    runs = runs_of(uri)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert history(uri, runs["t1"], "loss") == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert list((tmp_path / "artifacts").rglob("report.html"))
    assert json.loads((folder / CURSOR).read_text())["refused"] == 0
