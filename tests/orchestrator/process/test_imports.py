"""Pythons of ours import what this one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.process.imports import own_imports, require_own_packages
from orchestrator.space import ConfigError


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


@pytest.mark.parametrize("name", ["hjepa/__init__.py", "orchestrator.py"])
def test_another_package_of_that_name_in_the_working_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hjepa").mkdir()  # no package, and so looked for elsewhere
    require_own_packages()
    (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match=r"trials would import it in place of") as raised:
        require_own_packages()
    assert str(raised.value).startswith(f"{tmp_path / name}: ")


def test_the_packages_own_checkout_is_a_folder_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    require_own_packages()
