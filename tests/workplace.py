"""A folder with a tiny config and space, and the commands run in it as a user would."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from hjepa.train import train
from orchestrator.space import Sweep, load_sweep
from orchestrator.study.place import Place
from orchestrator.study.reading import read_study
from orchestrator.study.record import TrialRecord
from tests.programs.warm import warm

TINY = {
    "model": {
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "patch_size": 4,
        "num_hierarchies": 2,
        "predictor": {"depth": 1, "num_heads": 2},
    },
    "data": {"batch_size": 256},
    "training": {"epochs": 2, "lr": 1e-3},
    "loss": {"hierarchy_weights": [1.0, 0.5]},
}
SPACE = {
    "name": "tiny",
    "base": "base.yaml",
    "space": {
        "model.fpn.use_fpn": {"choice": [True, False]},
        "model.fpn.fusion_method": {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
        "training.lr": {"loguniform": [1e-4, 1e-2]},
    },
    "search": {"algorithm": "tpe", "num_trials": 4, "seed": 0},
    "scheduler": {"type": "asha", "max_epochs": 3, "grace_epochs": 1, "reduction_factor": 3, "audit": 0},
}


# What importing the orchestrator has set in this process is not for those that it starts.
_OURS = ("RAY_", "TUNE_", "GLOO_", "NCCL_")
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


class Workplace:
    """A folder with a tiny base config and space, and the commands run in it as a user would."""

    def __init__(self, folder: Path, state: Path):
        self.folder = folder
        self.env = OUTSIDE | {
            "HJEPA_STATE_DIR": str(state),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONWARNINGS": "default",
            "HJEPA_REPORT": "off",  # seconds for each sweep; those that look at the report put it on
        }
        self.write("base.yaml", TINY)
        self.write("tiny.yaml", SPACE)

    def write(self, name: str, data: object) -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    def command(self, module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", module, *arguments]

    def sweep(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("orchestrator.cli", *arguments)

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """As `sweep`, for a command that begins no trial: in a tenth of the time, torch being loaded."""
        return warm().run("orchestrator.cli", arguments, self.folder, self.env)

    def train(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("hjepa", *arguments)

    def start_sweep(self, *arguments: str, output: Path | None = None) -> subprocess.Popen[str]:
        return self.start(self.command("orchestrator.cli", *arguments), output)

    def start(self, command: list[str], output: Path | None = None) -> subprocess.Popen[str]:
        """Start a command; what it prints goes to a pipe, or to a file that can be read meanwhile."""
        if output is not None:
            with output.open("w") as file:
                return self._start(command, file)
        return self._start(command, subprocess.PIPE)

    def _start(self, command: list[str], output: Any) -> subprocess.Popen[str]:
        # A session of its own, so that what it leaves behind can be found and ended with it.
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                self.command(module, *arguments),
                cwd=self.folder,
                env=self.env,
                text=True,
                capture_output=True,
                timeout=240,
                check=False,
            )
        except subprocess.TimeoutExpired as slow:
            said = b"".join(text for text in (slow.stdout, slow.stderr) if text)
            pytest.fail(f"still running after {slow.timeout:.0f} s:\n{said.decode(errors='replace')}")

    def holding(self, secret: str) -> list[Path]:
        """The files in which a planted secret stands, of the folder and of what sweeps keep elsewhere."""
        folders = (self.folder, Path(self.env["HJEPA_STATE_DIR"]))
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        return [file for file in files if secret.encode() in file.read_bytes()]

    def files(self) -> dict[str, bytes]:
        """Everything in the folder but the cache, to compare."""
        return {
            str(file.relative_to(self.folder)): file.read_bytes()
            for file in self.folder.rglob("*")
            if file.is_file() and "cache" not in file.relative_to(self.folder).parts
        }


def records(workplace: Workplace, name: str = "tiny") -> list[TrialRecord]:
    folder = workplace.folder / "results" / name
    url = workplace.env.get("HJEPA_STORAGE")
    return read_study(folder, Place.parse(url, "test") if url else None)


def mlflow_runs(workplace: Workplace, name: str = "tiny") -> list[Run]:
    client = MlflowClient(f"sqlite:///{workplace.folder / 'results' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def children(workplace: Workplace, name: str = "tiny") -> dict[str, Run]:
    return {
        run.data.tags["hjepa.trial"]: run
        for run in mlflow_runs(workplace, name)
        if "mlflow.parentRunId" in run.data.tags
    }


def wait_for(path: Path, text: str, process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    """Until `text` stands in the file; fails if the process ends before."""
    deadline = time.monotonic() + timeout_s
    while not (path.exists() and text in path.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"no {text!r} in {path}"
        time.sleep(0.05)


def end_session(process: subprocess.Popen[str]) -> None:
    """End what a killed sweep left of its own process session."""
    for other in psutil.process_iter():
        try:
            if os.getsid(other.pid) == process.pid:
                other.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue


@contextmanager
def sweep_to_kill(
    workplace: Workplace, *arguments: str, output: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A sweep whose driver is killed at the end of the block, and with it what is left of its session."""
    process = workplace.start_sweep(*arguments, output=output)
    try:
        yield process
        process.kill()
        process.communicate()
    finally:
        end_session(process)


def trial_processes(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes in which a running sweep's trials run; waits for one to be at work."""
    deadline = time.monotonic() + 10
    while True:
        everyone = psutil.Process(process.pid).children(recursive=True)
        found = [other for other in everyone if "Trainable.train" in _title(other)]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return ""


@contextmanager
def held_still(process: subprocess.Popen[str]) -> Iterator[None]:
    """Within, a sweep and its trials stand still, so that slow commands find it where it was."""
    held = [psutil.Process(process.pid), *trial_processes(process)]
    for one in held:
        one.suspend()
    try:
        yield
    finally:
        for one in held:
            one.resume()


def require_none_running(workplace: Workplace, name: str = "tiny") -> None:
    """MLflow shows no run as running, as soon as the drainer, which outlives the driver, is done."""
    deadline = time.monotonic() + 90
    while "RUNNING" in {run.info.status for run in mlflow_runs(workplace, name)}:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def signal_pending(pid: int, number: int) -> bool:
    """Whether a process that stands still has a signal to come."""
    (line,) = [x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("ShdPnd")]
    return bool(int(line.split()[1], 16) & 1 << number - 1)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    """Until `condition` comes true; fails if the process ends before."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def learnt(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics without those of the clock, which no two runs share."""
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def uninterrupted(workplace: Workplace, record: TrialRecord, name: str = "tiny") -> list[dict[str, Any]]:
    """What the core reports of a trial's config, epoch by epoch, without a sweep around it."""
    sweep: Sweep = load_sweep(workplace.folder / "results" / name / "sweep.yaml")
    return [learnt(report.metrics) for report in train(sweep.resolve(record.values))]
