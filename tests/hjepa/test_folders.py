"""A run's folder is its own: found free, claimed, and let go."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hjepa.folders import LOCK, Claim, TakenError, claim_free, free_folder, siblings

ROOT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_the_first_free_folder_is_the_first_that_is_empty_or_missing(tmp_path: Path):
    folder = tmp_path / "run"
    assert free_folder(folder) == folder
    folder.mkdir()
    assert free_folder(folder) == folder
    (folder / "metrics.jsonl").touch()
    assert free_folder(folder) == tmp_path / "run-2"
    with claim_free(folder, "") as claim:
        assert claim.folder == tmp_path / "run-2"


def test_a_claimed_folder_is_nobody_elses_until_it_is_let_go(tmp_path: Path):
    folder = tmp_path / "run"
    with Claim(folder, "seed: 1\n"):
        assert (folder / LOCK).read_text().endswith("\nseed: 1\n")
        with pytest.raises(TakenError, match=rf"process {os.getpid()} on "):
            Claim(folder, "seed: 2\n")
        with claim_free(folder, "seed: 2\n") as other:
            assert other.folder == tmp_path / "run-2"
            (other.folder / "metrics.jsonl").touch()
        assert names(folder) == [LOCK]
    assert names(tmp_path) == ["run-2"], "nothing came into run"
    assert names(tmp_path / "run-2") == ["metrics.jsonl"]


def test_what_was_there_before_a_claim_is_there_after_it(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    Claim(tmp_path / "empty", "").release()
    assert names(tmp_path) == ["empty"]


def test_a_claim_ends_with_its_process(tmp_path: Path):
    code = (
        "import pathlib, signal\n"
        "from hjepa.folders import Claim\n"
        "claim = Claim(pathlib.Path('run'), 'seed: 1')\n"
        "print('claimed', flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "claimed\n"
        with pytest.raises(TakenError, match=f"process {child.pid} on "):
            Claim(tmp_path / "run", "")
        child.send_signal(signal.SIGKILL)
    with claim_free(tmp_path / "run", "seed: 2") as claim:
        assert claim.folder == tmp_path / "run"
        assert (claim.folder / LOCK).read_text().endswith("\nseed: 2")


def test_siblings_stand_in_the_order_of_their_numbers(tmp_path: Path):
    assert siblings(tmp_path / "none" / "run") == []
    for name in ("run-10", "run-2", "run-x", "run-2-3", "other-4", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "run-3").touch()
    assert [folder.name for folder in siblings(tmp_path / "run")] == ["run", "run-2", "run-10"]
    (tmp_path / "run").rmdir()
    assert [folder.name for folder in siblings(tmp_path / "run")] == ["run-2", "run-10"]
