"""Pythons of ours import what this one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.process.imports import own_imports


@pytest.mark.parametrize(
    "begun", [["-c", "import random, orchestrator"], ["-m", "orchestrator.process.lock"]]
)
def test_a_python_of_ours_looks_for_no_module_in_the_working_folder(tmp_path: Path, begun: list[str]) -> None:
    for name in ("random.py", "argparse.py", "orchestrator.py"):
        (tmp_path / name).write_text("raise SystemExit('not ours')")
    done = subprocess.run(
        [sys.executable, *begun],
        cwd=tmp_path,
        env=os.environ | own_imports(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
