"""The tracker against real stores: a SQLite database read back by MLflow's client, real processes killed."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from orchestrator.cli.going import store_of
from orchestrator.doctor.stores import tracking
from orchestrator.process.lock import exclusive
from orchestrator.tracking.delivery import create_database
from orchestrator.tracking.drainer import LOCK, logged_in, until_next_session
from orchestrator.tracking.spool import CURSOR, SPOOL, Cursor, read, undelivered
from orchestrator.tracking.tracking import Tracker, absolute_uri, bare_uri, drain

# MLflow 3.17's own use of SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    create_database(path)
    return path


@pytest.fixture
def database(empty_database, tmp_path):
    """A fresh MLflow database; copied, as making one takes two seconds."""
    return Path(shutil.copy(empty_database, tmp_path))


@pytest.fixture
def uri(database):
    return f"sqlite:///{database}"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sweep"


@pytest.fixture
def dead_uri():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def runs_of(uri, experiment="fpn"):
    """Run name -> run, of the whole experiment."""
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs), "a run was made twice"
    return named


def history(uri, run, key):
    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run.info.run_id, key)]


def wait_until(condition, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def a_short_sweep(tracker, epochs=3):
    tracker.start_sweep({"search.num_trials": 2}, {"base": "digits"})
    for trial, lr in (("t1", 1e-3), ("t2", 3e-4)):
        tracker.start_trial(trial, {"training.lr": lr, "model.fpn.use_fpn": True}, {"origin": "tpe"})
    for epoch in range(epochs):
        for trial in ("t1", "t2"):
            tracker.log_epoch(trial, epoch, {"val/knn_top1": epoch / 10, "train/loss": 1.0}, 1000 + epoch)
    tracker.end_trial("t1", "FINISHED", {"outcome": "complete"})
    tracker.end_trial("t2", "KILLED", {"outcome": "pruned"})


def test_a_sweep_stands_in_mlflow_as_it_ran(folder, database, uri):
    tracker = Tracker(folder, uri, "fpn", "fpn-1")
    a_short_sweep(tracker)
    report = folder / "report"
    report.mkdir()
    (report / "effects.csv").write_text("key,effect\n")
    tracker.log_artifact(report, "report")
    tracker.log_artifact(report / "effects.csv")
    tracker.end_sweep("FINISHED", {"best": "t1"}, {"best/val/knn_top1": 0.2})
    assert tracker.close(timeout_s=30) == 0
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
    assert tracker.close(timeout_s=30) == 0
    parent = runs_of(f"sqlite:///{tmp_path}/results/mlflow.db")["fpn-1"]
    assert parent.info.artifact_uri.startswith((tmp_path / "results/mlartifacts/fpn").as_uri())
    assert [path.name for path in tmp_path.iterdir()] == ["results"], "something was left in the directory"


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
    assert tracker.close(timeout_s=30) == 0

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
        assert drain(folder, uri, timeout_s=60) == 0
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
    assert resumed.close(timeout_s=30) == 0

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
    assert tracker.close(timeout_s=30) == 0

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
    assert tracker.close(timeout_s=30) == 0
    runs = runs_of(uri)
    assert set(runs) == {"fpn-1", "t2"}
    assert history(uri, runs["t2"], "loss") == [(0, 2.0)]
    assert runs["t2"].info.status == "KILLED"


def test_two_drainers_never_write_for_one_sweep(folder, uri):
    folder.mkdir()
    with exclusive(folder / LOCK):
        tracker = Tracker(folder, uri, "fpn", "fpn-1")
        tracker.start_sweep({}, {})
        time.sleep(3)
        assert undelivered(folder) == 2
    assert tracker.close(timeout_s=30) == 0


def test_a_dead_drivers_drainer_leaves_a_resumed_session_to_its_own():
    """Else it would end, as left behind, the runs that the resume has reopened."""
    records = [{"kind": "open", "session": "1"}, {"kind": "end"}, {"kind": "open", "session": "2"}]
    window = list(enumerate(records))
    assert until_next_session(window, current="", session="1") == window[:2]
    assert until_next_session(window[2:], current="1", session="1") == []
    assert until_next_session(window, current="", session="2") == window
    assert until_next_session(window, current="", session="") == window


def test_credentials_stand_in_no_file_and_the_user_is_known(tmp_path, folder, dead_uri):
    database = "postgresql+psycopg2://127.0.0.1:1/mlflow"
    for store, secret in ((dead_uri, ""), (database, "?application_name=se%2Fcret")):
        uri = store.replace("://", "://alice:se%2Fcret@") + secret
        tracker = Tracker(folder, uri, "fpn", "fpn-1")
        a_short_sweep(tracker)
        log = folder / "tracking.log"
        size = log.stat().st_size if log.exists() else 0
        wait_until(lambda log=log, size=size: log.stat().st_size > size + 50)
        assert Cursor.load(folder).store == store
        assert store_of(folder, None) == store.replace("://", "://alice@")
        assert tracker.close(timeout_s=0.5) > 0
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        assert not any(secret in file.read_text() for secret in ("se%2Fcret", "se/cret")), file.name


def test_who_goes_on_by_the_folder_alone_is_the_same_user_there(folder, dead_uri):
    """Whose password is in MLFLOW_TRACKING_PASSWORD."""
    for uri in (dead_uri, "postgresql+psycopg2://127.0.0.1:1/mlflow"):
        tracker = Tracker(folder, uri.replace("://", "://alice@"), "fpn", "fpn-1")
        wait_until(lambda uri=uri: (found := Cursor.load(folder)) is not None and found.store == uri)
        assert store_of(folder, None) == uri.replace("://", "://alice@")
        assert tracker.close(timeout_s=0) > 0


def test_a_folder_of_an_older_version_goes_on_with_the_store_that_it_names(folder, dead_uri):
    folder.mkdir()
    (folder / CURSOR).write_text(json.dumps({"store": dead_uri}))
    assert store_of(folder, None) == dead_uri


@pytest.mark.parametrize(
    ("uri", "name", "password"),
    [
        ("http://alice:se%2Fcret@host/a", "alice", "se/cret"),
        ("https://alice@host/a", "alice", "of the environment"),
        ("https://host/a", "somebody", "of the environment"),
    ],
)
def test_a_server_is_told_who_logs_in(monkeypatch, uri, name, password):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of the environment")
    assert logged_in(uri).partition("://")[2] == "host/a"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == name
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == password


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
        wait_until(lambda: "not delivered, attempt 2" in (tmp_path / "said").read_text(), timeout_s=60)
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


def test_a_spool_that_was_cut_short_is_delivered_again_from_its_start(folder, uri):
    tracker = Tracker(folder, uri, "fpn", "fpn-1")
    a_short_sweep(tracker)
    assert tracker.close(timeout_s=30) == 0
    size = (folder / SPOOL).stat().st_size
    os.truncate(folder / SPOOL, size * 2 // 3)
    again = Tracker(folder, uri, "fpn", "fpn-1")
    assert 2 not in again.spooled()["t2"]
    again.start_trial("t2", {}, {})
    for epoch in range(3):  # with the times at which they were reported
        again.log_epoch("t2", epoch, {"val/knn_top1": epoch / 10, "train/loss": 1.0}, 1000 + epoch)
    again.end_trial("t2", "FINISHED", {})
    again.end_sweep("FINISHED", {}, {})
    assert again.close(timeout_s=60) == 0
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


def serve(port, backend, log, *options, **settings):
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", backend]
    command += ["--artifacts-destination", str(log.parent / "artifacts")]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"} | settings
    command += options
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, env=environment
        )


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


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
                assert tracker.close(timeout_s=60) == 0
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


@pytest.mark.parametrize(
    ("uri", "bare"),
    [
        ("http://me:se%2Fcret@host:5000/a", "http://me@host:5000/a"),
        ("http://:secret@host:5000", "http://host:5000"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql://me:secret@host/db?password=secret", "postgresql://me@host/db"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_a_bare_uri_names_the_store_without_its_secrets(uri, bare):
    assert bare_uri(uri) == bare
    assert bare_uri(bare) == bare


@pytest.mark.slow
def test_a_server_that_asks_for_a_password_gets_it_from_the_environment(
    tmp_path, folder, dead_uri, monkeypatch
):
    """A wrong one costs nothing but time: what was not taken arrives with the right one."""
    port, password = int(dead_uri.rpartition(":")[2]), "canary-6f20b1d9-long"
    settings = tmp_path / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{tmp_path / 'auth.db'}\n"
        f"admin_username = keeper\nadmin_password = {password}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    settings.chmod(0o600)
    secrets = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the test"}
    backend = f"sqlite:///{tmp_path / 'server.db'}"
    server = serve(port, backend, tmp_path / "server.log", "--app-name", "basic-auth", **secrets)
    try:
        wait_until(lambda: answers(port), timeout_s=120)
        log = folder / "tracking.log"
        for given in ("wrong", password):
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "keeper")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", given)
            tracker = Tracker(folder, dead_uri, "fpn", "fpn-1")
            a_short_sweep(tracker)
            if given == "wrong":
                wait_until(lambda: "not delivered" in log.read_text(), timeout_s=60)
                assert tracker.close(timeout_s=0) > 0
                refused = tracking(dead_uri)
                assert not refused.ok
                assert "refuses keeper (HTTP 401)" in refused.said
                assert "MLFLOW_TRACKING_PASSWORD" in refused.fix
            else:
                wait_until(lambda: undelivered(folder) == 0, timeout_s=120)
                assert tracker.close(timeout_s=60) == 0
                assert tracking(dead_uri).ok
        learnt = history(dead_uri, runs_of(dead_uri)["t1"], "val/knn_top1")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert learnt == [(0, 0.0), (1, 0.1), (2, 0.2)]
    for file in (file for file in folder.rglob("*") if file.is_file()):
        assert password not in file.read_text(), file.name
