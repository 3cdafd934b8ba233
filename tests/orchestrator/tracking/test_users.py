"""As whom a store is asked, and that its secrets stand in no file."""

import json
import os
import signal

import pytest

from orchestrator.cli.going import store_of
from orchestrator.doctor.stores import tracking
from orchestrator.tracking.drainer import logged_in
from orchestrator.tracking.spool import CURSOR, Cursor, undelivered
from orchestrator.tracking.tracking import Tracker, bare_uri
from tests.orchestrator.tracking.stores import a_short_sweep, answers, history, runs_of, serve, wait_until

# MLflow 3.17's own use of SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


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
