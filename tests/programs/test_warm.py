"""The process that commands of other tests are forked from."""

import os
import signal
from pathlib import Path

import pytest

from tests.programs.warm import warm

TELLS = """
import os, sys
print(os.getcwd(), os.environ.get("TOLD"), sys.argv[1:])
print("torch" in sys.modules, "orchestrator" in sys.modules, "ray" in sys.modules, file=sys.stderr)
os.environ["TOLD"] = "to the others too"
sys.exit(3)
"""


def test_a_command_has_a_folder_an_environment_an_output_and_a_status_of_its_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "tells.py").write_text(TELLS)
    plain = {name: value for name, value in os.environ.items() if name != "TOLD"}
    for env, told in (({"TOLD": "1"}, "1"), ({}, "None")):
        done = warm().run("tells", ["a", "b"], tmp_path, plain | env)
        assert done.returncode == 3
        assert done.stdout == f"{tmp_path} {told} ['a', 'b']\n"
        assert done.stderr == "True False False\n"


def test_a_command_that_raises_shows_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("1 / 0")
    done = warm().run("raises", [], tmp_path, os.environ)
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_command_that_is_given_up_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    """As by pytest's timeout, which is an exception out of a signal's handler."""
    waits = "import os, signal, sys\nos.kill(int(sys.argv[1]), signal.SIGUSR1)\nsignal.pause()"
    (tmp_path / "waits.py").write_text(waits)
    (tmp_path / "tells.py").write_text(TELLS)

    def give_up(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGUSR1, give_up)
    try:
        with pytest.raises(TimeoutError):
            warm().run("waits", [str(os.getpid())], tmp_path, os.environ)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert warm().run("tells", [], tmp_path, os.environ).returncode == 3
