"""Ctrl-C while the command lines import torch, which takes seconds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SLOW_TORCH = "import signal\nprint('torch is being imported', flush=True)\nsignal.pause()\n"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("hjepa", "train", "run.yaml"), "hjepa-train"),
        (("orchestrator.cli", "run", "space.yaml"), "hjepa-sweep"),
        (("orchestrator.cli", "check", "space.yaml"), "hjepa-sweep"),
    ],
)
def test_ctrl_c_during_the_imports_ends_quietly(tmp_path: Path, command: tuple[str, ...], name: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(SLOW_TORCH)
    (tmp_path / "space.yaml").write_text("base: run.yaml\nspace: {training.lr: {choice: [1.0e-3, 2.0e-3]}}\n")
    (tmp_path / "run.yaml").write_text("training: {epochs: 1}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "torch is being imported\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said) == (130, f"\n{name}: interrupted.\n")
