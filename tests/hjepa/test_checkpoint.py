"""Checkpoints: whole or not there, read without running code, and which of them are kept."""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hjepa.checkpoint import CheckpointConfig, CheckpointFolder, load_checkpoint, save_checkpoint
from hjepa.schema import ConfigError

CPU = torch.device("cpu")


def state(value: float) -> dict[str, Any]:
    return {"epoch": int(value), "weights": torch.full((100,), value)}


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


# Written whole


def test_what_was_saved_is_loaded(tmp_path: Path):
    save_checkpoint(tmp_path / "new" / "a.pt", state(3))
    found = load_checkpoint(tmp_path / "new" / "a.pt", CPU)
    assert found["epoch"] == 3
    assert torch.equal(found["weights"], torch.full((100,), 3.0))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.pt"]


def test_saving_puts_a_new_file_in_place_of_the_old_and_never_writes_into_it(tmp_path: Path):
    path, old = tmp_path / "a.pt", tmp_path / "old.pt"
    save_checkpoint(path, state(1))
    os.link(path, old)
    save_checkpoint(path, state(2))
    assert load_checkpoint(old, CPU)["epoch"] == 1
    assert load_checkpoint(path, CPU)["epoch"] == 2


def test_a_save_that_fails_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state(1))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_checkpoint(path, state(2) | {"not picklable": lambda: None})
    assert load_checkpoint(path, CPU)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


SAVES_FOR_EVER = """
import sys, torch
from pathlib import Path
from hjepa.checkpoint import save_checkpoint

number = 0
while True:
    number += 1
    save_checkpoint(Path(sys.argv[1]), {"number": number, "weights": torch.full((4_000_000,), float(number))})
    if number == 1:
        print("saved", flush=True)
"""


def test_a_process_killed_in_the_middle_of_saving_leaves_the_old_file_whole(tmp_path: Path):
    path = tmp_path / "epoch_00001.pt"
    child = subprocess.Popen([sys.executable, "-c", SAVES_FOR_EVER, str(path)], stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"saved\n"
        while True:
            os.kill(child.pid, signal.SIGSTOP)
            if any(file.stat().st_size for file in tmp_path.glob(".*.tmp")):
                break
            os.kill(child.pid, signal.SIGCONT)
        os.kill(child.pid, signal.SIGKILL)
    found = load_checkpoint(path, CPU)
    assert torch.equal(found["weights"], torch.full((4_000_000,), float(found["number"])))
    assert list(tmp_path.glob(".*.tmp")), "the process was not in the middle of saving"
    assert CheckpointFolder(CheckpointConfig(), tmp_path).newest() == path
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


# Read with suspicion


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_torn_file_is_refused_by_name(tmp_path: Path, share: float):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state(1))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ConfigError, match=r"a\.pt: not a readable checkpoint"):
        load_checkpoint(path, CPU)


def test_a_missing_file_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"a\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "a.pt", CPU)


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    torch.save({"weights": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="not a checkpoint of this version"):
        load_checkpoint(tmp_path / "a.pt", CPU)


class Malicious:
    """Makes a folder when unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, zipped: bool):
    trace = tmp_path / "trace"
    bad = {"format": 1, "epoch": 1, "weights": Malicious(trace)}
    if zipped:
        torch.save(bad, tmp_path / "a.pt")
    else:
        (tmp_path / "a.pt").write_bytes(pickle.dumps(bad, protocol=2))
    with pytest.raises(ConfigError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "a.pt", CPU)
    assert not trace.exists()


# Which are kept


def kept(folder: Path) -> list[int]:
    return sorted(int(file.stem.removeprefix("epoch_")) for file in folder.glob("epoch_*.pt"))


def save_scores(checkpoints: CheckpointFolder, scores: dict[int, float | None]) -> None:
    for epoch, score in scores.items():
        save_checkpoint(checkpoints.path(epoch), state(epoch))
        checkpoints.prune(epoch, score)


SCORES: dict[int, float | None] = {1: 0.3, 2: 0.9, 3: 0.1, 4: 0.8, 5: 0.2, 6: 0.4}


@pytest.mark.parametrize(
    ("last", "best", "mode", "expected"),
    [
        (1, 0, "max", [6]),
        (3, 0, "max", [4, 5, 6]),
        (1, 1, "max", [2, 6]),
        (1, 2, "max", [2, 4, 6]),
        (2, 2, "min", [3, 5, 6]),
        (9, 9, "max", [1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_newest_and_the_best_are_kept(
    tmp_path: Path, last: int, best: int, mode: Any, expected: list[int]
):
    metric = "val/knn_top1" if mode == "max" else "train/loss"
    config = CheckpointConfig(keep_last_k=last, keep_best_n=best, metric=metric, mode=mode)
    save_scores(CheckpointFolder(config, tmp_path), SCORES)
    assert kept(tmp_path) == expected


def test_a_metric_that_no_run_reports_or_the_wrong_way_round_is_refused():
    with pytest.raises(ValueError, match="no run reports metric 'val_loss'"):
        CheckpointConfig(metric="val_loss")
    with pytest.raises(ValueError, match="would keep the worst by train/loss; set mode to min"):
        CheckpointConfig(metric="train/loss", mode="max")


def test_a_checkpoint_without_a_score_is_kept_only_while_new(tmp_path: Path):
    checkpoints = CheckpointFolder(CheckpointConfig(keep_last_k=1, keep_best_n=1), tmp_path)
    save_scores(checkpoints, {1: None, 2: 0.5, 3: None, 4: None})
    assert kept(tmp_path) == [2, 4]


def test_the_best_is_still_known_after_a_resume(tmp_path: Path):
    config = CheckpointConfig(keep_last_k=1, keep_best_n=1)
    save_scores(CheckpointFolder(config, tmp_path), {1: 0.9, 2: 0.1})
    save_scores(CheckpointFolder(config, tmp_path), {3: 0.2, 4: 0.3})
    assert kept(tmp_path) == [1, 4]


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path):
    config = CheckpointConfig(keep_last_k=1, keep_best_n=1)
    save_scores(CheckpointFolder(config, tmp_path), {1: 0.5, 2: float("nan"), 3: 0.2})
    assert kept(tmp_path) == [1, 3]


def test_the_newest_is_by_epoch(tmp_path: Path):
    checkpoints = CheckpointFolder(CheckpointConfig(), tmp_path)
    assert checkpoints.newest() is None
    for epoch in (9, 10, 2):
        save_checkpoint(checkpoints.path(epoch), state(epoch))
    assert checkpoints.newest() == checkpoints.path(10)


def test_the_newest_that_can_be_read_is_found_and_what_is_passed_over_told(tmp_path: Path):
    checkpoints = CheckpointFolder(CheckpointConfig(), tmp_path)
    assert checkpoints.newest_readable() == (None, [])
    for epoch in (1, 2, 3):
        save_checkpoint(checkpoints.path(epoch), state(epoch))
    assert checkpoints.newest_readable() == (checkpoints.path(3), [])
    tear(checkpoints.path(3))
    torch.save({"weights": torch.ones(1)}, checkpoints.path(2))
    path, (torn, foreign) = checkpoints.newest_readable()
    assert path == checkpoints.path(1)
    assert torn.startswith(f"{checkpoints.path(3)}: not a readable checkpoint: ")
    assert foreign == f"{checkpoints.path(2)}: not a checkpoint of this version."


def test_checkpoints_of_which_none_can_be_read_are_an_error_that_names_all(tmp_path: Path):
    checkpoints = CheckpointFolder(CheckpointConfig(), tmp_path)
    for epoch in (1, 2):
        save_checkpoint(checkpoints.path(epoch), state(epoch))
        tear(checkpoints.path(epoch))
    with pytest.raises(ConfigError, match=r"of 2 in .* none can be read:\n.*epoch_00002.*\n.*epoch_00001"):
        checkpoints.newest_readable()


def test_going_on_from_an_earlier_epoch_moves_later_checkpoints_aside(tmp_path: Path):
    config = CheckpointConfig(keep_last_k=1, keep_best_n=1)
    save_scores(CheckpointFolder(config, tmp_path), {10: 0.1, 20: 0.9, 30: 0.2})
    assert kept(tmp_path) == [20, 30]
    assert CheckpointFolder(config, tmp_path).begin(30) is None
    checkpoints = CheckpointFolder(config, tmp_path)
    assert checkpoints.begin(10) == (
        f"{tmp_path}: 2 checkpoints of epochs after 10, which come anew, moved to {tmp_path / 'aside'}."
    )
    assert checkpoints.newest() is None
    assert kept(tmp_path / "aside") == [20, 30]
    save_scores(checkpoints, {12: 0.3, 14: 0.2})
    assert kept(tmp_path) == [12, 14], "a score of the other branch counts no more"
    assert "moved to" in str(CheckpointFolder(config, tmp_path).begin(12))
    assert (kept(tmp_path), kept(tmp_path / "aside-2")) == ([12], [14])


@pytest.mark.parametrize("text", ['{"1": 0.9, ', "", "[1, 2]", '{"1": null}', '{"one": 1}'])
def test_torn_scores_are_told_and_cost_no_checkpoint(tmp_path: Path, text: str):
    config = CheckpointConfig(keep_last_k=1, keep_best_n=1)
    save_scores(CheckpointFolder(config, tmp_path), {1: 0.9, 2: 0.1})
    (tmp_path / "scores.json").write_text(text)
    checkpoints = CheckpointFolder(config, tmp_path)
    (note,) = checkpoints.notes
    assert note.startswith(f"{tmp_path / 'scores.json'}: cannot be read")
    save_scores(checkpoints, {3: 0.2, 4: 0.3, 5: 0.1})
    assert kept(tmp_path) == [1, 2, 4, 5]
    assert CheckpointFolder(config, tmp_path).notes == ()


def test_scores_that_cannot_be_written_leave_the_old_ones_whole(tmp_path: Path):
    checkpoints = CheckpointFolder(CheckpointConfig(), tmp_path)
    save_scores(checkpoints, {1: 0.9})
    before = checkpoints.scores_file.read_bytes()
    checkpoints.scores = {2: object()}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        checkpoints.prune(3, 0.5)
    assert checkpoints.scores_file.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_every_nth_epoch_and_the_last_make_a_checkpoint(tmp_path: Path):
    checkpoints = CheckpointFolder(CheckpointConfig(save_frequency=4), tmp_path)
    assert [epoch for epoch in range(1, 11) if checkpoints.due(epoch, 10)] == [4, 8, 10]
