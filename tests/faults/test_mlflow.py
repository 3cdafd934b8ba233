"""A real MLflow server behind a line that fails, dawdles and breaks off."""

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.tracking.tracking import Tracker, undelivered
from tests.orchestrator.tracking.stores import answers, serve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
TRIALS, EPOCHS = ("t1", "t2", "t3"), 40


class Line(ThreadingHTTPServer):
    """Passes requests on to the server, or does what `fault` says."""

    def __init__(self, target: int):
        super().__init__(("127.0.0.1", 0), Passing)
        self.target, self.fault, self.met = target, "", 0


class Passing(BaseHTTPRequestHandler):
    server: Line

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault
        self.server.met += bool(fault)
        if fault == "errors":
            self.send_error(503)
            return
        if fault == "slow":
            time.sleep(1.5)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if fault == "breaks":  # the server has taken it, and the answer is lost
            self.connection.close()
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type") or "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_PUT = _pass

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    with ThreadingHTTPServer(("127.0.0.1", 0), Passing) as unused:
        port = unused.server_address[1]
    process = serve(port, f"sqlite:///{folder / 'server.db'}", folder / "server.log")
    try:
        deadline = time.monotonic() + 200
        while not answers(port):
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["errors", "slow", "breaks"])
def test_everything_arrives_once_and_in_order_through_a_bad_line(
    server: int, tmp_path: Path, fault: str
) -> None:
    """An MLflow server that answers errors, is slow, or breaks off."""
    line = Line(server)
    threading.Thread(target=line.serve_forever, daemon=True).start()
    uri, name = f"http://127.0.0.1:{line.server_address[1]}", f"line-{fault}"
    try:
        line.fault = fault
        tracker = Tracker(tmp_path, uri, name, name)
        began = time.monotonic()
        tracker.start_sweep({}, {})
        for trial in TRIALS:
            tracker.start_trial(trial, {"training.lr": 0.1}, {})
        for epoch in range(EPOCHS):
            for trial in TRIALS:
                tracker.log_epoch(trial, epoch, {"loss": 1 / (epoch + 1)})
        assert (time.monotonic() - began) / (EPOCHS * len(TRIALS)) < 0.02  # nobody has waited for it
        deadline = time.monotonic() + 60
        while line.met < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        line.fault = ""
        for trial in TRIALS:
            tracker.end_trial(trial, "FINISHED", {})
        tracker.end_sweep("FINISHED", {}, {})
        assert tracker.close(timeout_s=120) == undelivered(tmp_path) == 0
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        assert set(runs) == {name, *TRIALS}
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        for trial in TRIALS:
            history = client.get_metric_history(runs[trial].info.run_id, "loss")
            assert [(m.step, m.value) for m in history] == [(e, 1 / (e + 1)) for e in range(EPOCHS)]
    finally:
        line.shutdown()
        line.server_close()
