"""What a process keeps in the state folder is its own while it lives, whoever else sees that folder."""

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.process.state import OWNER, QUIET_S, OwnFolder, state_folder
from orchestrator.space import ConfigError

HOLD = """
import os, sys
from orchestrator.process.state import OwnFolder
own = OwnFolder("r")
print(own.path, os.getpid(), flush=True)
sys.stdin.read()
"""
APART = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
"""A process of numbers of its own, as in a container."""

Hold = Callable[..., tuple[Path, int, subprocess.Popen[str]]]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HJEPA_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def hold(state: Path) -> Iterator[Hold]:
    """Starts a process with a folder of its own: the folder, the number that it knows itself by, and it."""
    with ExitStack() as stack:

        def start(*before: str) -> tuple[Path, int, subprocess.Popen[str]]:
            process = subprocess.Popen(
                [*before, sys.executable, "-c", HOLD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            folder, number = process.stdout.readline().split()
            return Path(folder), int(number), process

        yield start


def test_it_is_empty_private_and_gone_with_all_that_is_beside_it(state: Path):
    with OwnFolder("r") as folder:
        assert folder.parent == state
        assert stat.S_IMODE(state.stat().st_mode) == stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert list(folder.iterdir()) == []
        (folder / "session" / "logs").mkdir(parents=True)
    assert list(state.iterdir()) == []


def test_one_process_may_have_several(state: Path):
    with OwnFolder("s") as one, OwnFolder("s") as other:
        assert one != other
        assert one.is_dir()


def test_what_a_killed_process_left_goes_and_what_a_live_one_has_stays(hold: Hold, state: Path):
    (left, _, dying), (kept, _, _) = hold(), hold()
    (left / "session").write_text("socket")
    dying.kill()
    dying.wait()
    with OwnFolder("r") as own:
        assert {path for path in state.iterdir() if path.is_dir()} == {kept, own}
    assert {path.name for path in state.iterdir()} == {kept.name, kept.name + OWNER}


@pytest.mark.parametrize(
    "written", ["other-host\n0ther-b00t", "", None], ids=["elsewhere", "half made", "by an older version"]
)
def test_what_may_be_another_machines_stays_though_no_lock_is_seen(state: Path, written: str | None):
    """Its disk is seen here, its locks and processes are not."""
    folder = state / "r4000001"
    folder.mkdir(parents=True)
    if written is not None:
        folder.with_suffix(OWNER).write_text(written)
    with OwnFolder("r"):
        assert folder.is_dir()


def old_ray(state: Path, number: int, age_s: float = 2 * QUIET_S) -> Path:
    """What an older version's Ray left, of which a log was written `age_s` ago."""
    folder = state / f"r{number}"
    (folder / "session_1/logs").mkdir(parents=True)
    (folder / "session_latest").symlink_to(folder / "session_1")
    log = folder / "session_1/logs/gcs_server.out"
    log.write_text("debug state")
    for path in (folder, folder / "session_latest", folder / "session_1", log.parent):
        os.utime(path, (0, 0), follow_symlinks=False)
    os.utime(log, (time.time() - age_s,) * 2)
    return folder


def test_what_an_older_versions_ray_left_goes(state: Path):
    left = old_ray(state, 4_000_001)
    with OwnFolder("r") as own:
        assert not left.exists()
        assert [path for path in state.iterdir() if path.is_dir()] == [own]


@pytest.mark.parametrize("kept", ["runs", "written", "owned", "no number", "not Ray's"])
def test_what_may_be_in_use_or_something_else_stays(state: Path, kept: str):
    number = os.getpid() if kept == "runs" else 4_000_001
    folder = old_ray(state, number, 0.5 * QUIET_S if kept == "written" else 2 * QUIET_S)
    if kept == "owned":
        folder.with_suffix(OWNER).write_text("other-host\n0ther-b00t")
    if kept == "no number":
        folder = folder.rename(state / "r1-notes")
    if kept == "not Ray's":
        (folder / "session_latest").unlink()
        os.utime(folder, (0, 0))
    with OwnFolder("r"):
        assert (folder / "session_1/logs/gcs_server.out").exists()


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*APART, "true"], check=False, capture_output=True).returncode != 0,
    reason="needs namespaces",
)
def test_containers_whose_processes_have_the_same_numbers_leave_one_another_alone(hold: Hold, state: Path):
    (one, number, first), (other, again, _) = hold(*APART), hold(*APART)
    assert number == again
    assert one.is_dir()
    assert other.is_dir()
    first.kill()
    first.wait()
    with OwnFolder("r"):
        assert other.is_dir()


def test_its_name_is_short_for_rays_sockets():
    with OwnFolder("r") as folder:
        assert len(os.fsencode(folder.name)) <= len("r0000")


@pytest.mark.parametrize("variable", ["HJEPA_STATE_DIR", "XDG_STATE_HOME"])
def test_a_relative_state_folder_is_made_absolute_for_ray(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HJEPA_STATE_DIR")
    monkeypatch.setenv(variable, "state")
    monkeypatch.chdir(tmp_path)
    assert state_folder().is_absolute()
    assert state_folder().is_relative_to(tmp_path / "state")


def test_a_user_without_a_home_folder_is_told_what_to_set(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 9)
    assert state_folder() == state
    monkeypatch.delenv("HJEPA_STATE_DIR")
    with pytest.raises(ConfigError, match=r"^HJEPA_STATE_DIR: there is no home folder; set it or HOME\.$"):
        state_folder()
