"""What the tests of tracking put into a store and read back from it, and a server for them."""

import os
import socket
import subprocess
import sys
import time

from mlflow import MlflowClient


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
