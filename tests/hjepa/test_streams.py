"""Both programs with standard streams that are closed, or on a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")
HELP, LIST = ("hjepa", "check", "--help"), ("orchestrator.cli", "list")


def run(streams: str, *command: str) -> subprocess.CompletedProcess[str]:
    """`python COMMAND` as a shell runs it with its `streams` redirected."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, *command],
        cwd=ROOT,
        # Else what is printed is written at once, and not at the end.
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", [HELP, LIST])
def test_output_that_is_closed_is_no_error(command: tuple[str, ...]) -> None:
    done = run(">&- <&-", "-m", *command)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not FULL.exists(), reason=f"there is no {FULL}")
@pytest.mark.parametrize("command", [HELP, LIST, ("orchestrator.cli", "completion", "fish")])
def test_output_without_space_is_an_error_in_words(command: tuple[str, ...]) -> None:
    done = run(f">{FULL}", "-m", *command)
    name = "hjepa-train" if command == HELP else "hjepa-sweep"
    assert (done.returncode, done.stderr) == (2, f"{name}: standard output: No space left on device.\n")


def test_no_file_gets_the_number_of_a_closed_stream_and_with_it_what_is_printed() -> None:
    code = "from hjepa.streams import run_heard; run_heard('p', lambda: exit(open('README.md').fileno()))"
    assert run(">&- 2>&- <&-", "-c", code).returncode > 2


def test_a_program_that_has_loaded_timm_ends_without_a_word() -> None:
    code = "from hjepa.streams import run_heard; exit(run_heard('p', lambda: bool(__import__('timm')) - 1))"
    done = run("", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_searched_for_cycles_at_the_end() -> None:
    told = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1000))"
    done = run("", "-c", f"{told}; from hjepa.streams import run_heard; exit(run_heard('p', lambda: 0))")
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
