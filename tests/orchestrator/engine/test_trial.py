"""What runs in a trial's process, driven as Tune drives it but without Ray."""

import itertools
import json
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hjepa.config import RunConfig
from hjepa.schema import ConfigError
from orchestrator.engine.failure import Failure
from orchestrator.engine.trial import Outcome, Task, TrialActor, half_micro_batch
from orchestrator.storage.checkpoints import checkpoints

Tiny = Callable[..., RunConfig]


def taken_on(run: RunConfig, folder: Path, **task: Any) -> TrialActor:
    actor = TrialActor.__new__(TrialActor)
    actor.setup(Task(0, run.model_dump_json(), str(folder), **task).config())
    return actor


def epochs(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def run(tiny: Tiny) -> RunConfig:
    return tiny({"training.epochs": 3})


def test_a_process_that_only_took_a_trial_on_touches_nothing_of_it(run: RunConfig, tmp_path: Path) -> None:
    """Tune may start a process for a trial and then give the trial to another one that is free."""
    actor = taken_on(run, tmp_path / "trial")
    assert not (tmp_path / "trial").exists()
    actor.step()
    before = {file: file.read_bytes() for file in (tmp_path / "trial").iterdir()}
    taken_on(run, tmp_path / "trial")
    assert {file: file.read_bytes() for file in (tmp_path / "trial").iterdir()} == before
    actor.step()
    assert epochs(tmp_path / "trial") == [1, 2]


def test_a_resumed_trial_forgets_the_epochs_after_its_checkpoint(run: RunConfig, tmp_path: Path) -> None:
    actor = taken_on(run, tmp_path)
    first = [Outcome.of(actor.step()) for _ in range(2)]
    again = taken_on(run, tmp_path, resume=(str(tmp_path / "epoch_00001.pt"),))
    second, third = (Outcome.of(again.step()) for _ in range(2))
    assert (second.epoch, third.epoch, third.finished) == (2, 3, True)
    assert second.metrics["val/knn_top1"] == first[1].metrics["val/knn_top1"]
    assert epochs(tmp_path) == [1, 2, 3]


def test_an_epochs_seconds_do_not_follow_a_wall_clock_that_is_set(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour back with every look at it: budgets are spent by these seconds."""
    looks = itertools.count()
    monkeypatch.setattr("time.time", lambda: 2e9 - 3600 * next(looks))
    assert 0 < Outcome.of(taken_on(run, tmp_path).step()).seconds < 600


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    """Of what is stored: between the parts of an archive lies what fills them up."""
    with zipfile.ZipFile(path) as archive:
        largest = archive.read(max(archive.infolist(), key=lambda part: part.file_size))
    data = bytearray(path.read_bytes())
    data[data.index(largest) + len(largest) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    run: RunConfig, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    actor = taken_on(run, tmp_path)
    whole = [Outcome.of(actor.step()) for _ in range(3)]
    damage(tmp_path / "epoch_00003.pt")
    files = checkpoints(tmp_path, 3)
    assert [file.name for file in files] == ["epoch_00003.pt", "epoch_00002.pt"]
    again = Outcome.of(taken_on(run, tmp_path, resume=tuple(map(str, files))).step())
    assert (again.epoch, again.metrics["val/knn_top1"]) == (3, whole[2].metrics["val/knn_top1"])
    (note,) = again.notes
    assert "goes on after epoch 2" in note
    assert "epoch_00003.pt" in note
    assert epochs(tmp_path) == [1, 2, 3]


def test_a_trial_without_a_readable_checkpoint_begins_anew_and_says_so(
    run: RunConfig, tmp_path: Path
) -> None:
    actor = taken_on(run, tmp_path)
    first = [Outcome.of(actor.step()) for _ in range(2)]
    files = checkpoints(tmp_path, 2)
    for file in files:
        truncate(file)
    again = Outcome.of(taken_on(run, tmp_path, resume=tuple(map(str, files))).step())
    assert (again.epoch, again.metrics["val/knn_top1"]) == (1, first[0].metrics["val/knn_top1"])
    assert "begins anew" in again.notes[0]
    assert all(file.name in again.notes[0] for file in files)


def test_half_the_micro_batch_is_the_same_step(run: RunConfig, tmp_path: Path, tiny: Tiny) -> None:
    even = tiny({"data.batch_size": 240})
    keys = half_micro_batch(even)
    assert keys == {"data.batch_size": 120, "training.accumulation_steps": 2}
    assert half_micro_batch(run) is None  # 239 images have no half
    whole = Outcome.of(taken_on(even, tmp_path / "whole").step())
    halves = Outcome.of(taken_on(tiny(keys), tmp_path / "halves").step())
    assert halves.metrics["train/loss"] == pytest.approx(whole.metrics["train/loss"], rel=1e-5)


def test_an_epoch_that_finds_no_space_waits_for_it(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on the size of a file is the kernel's; a full disk fails the same writes."""
    monkeypatch.setattr("orchestrator.engine.trial.PAUSE_S", 0.0)
    actor, before = taken_on(run, tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        paused = [Outcome.of(actor.step()) for _ in range(2)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert all(outcome.paused and "epoch_00001.pt" in outcome.paused for outcome in paused)
    assert list(tmp_path.glob("*epoch*")) == []
    assert Outcome.of(actor.step()).epoch == 1
    assert Outcome.of(actor.step()).epoch == 2
    assert epochs(tmp_path) == [1, 2]


def test_memory_that_cannot_be_had_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    failure = Failure.of(f"Traceback\n  File x\nRuntimeError: {raised.value}\n\nmore")
    assert failure.reason.startswith("out of memory: ")
    assert not failure.gpu_memory
    cuda = f"ray::train()\ntorch.{torch.cuda.OutOfMemoryError.__name__}: CUDA out of memory. Tried 2 GiB."
    assert Failure.of(cuda).gpu_memory
    assert not Failure.of("ValueError: shapes differ").reason.startswith("out of memory")


def test_one_process_runs_one_trial_after_another(run: RunConfig, tmp_path: Path) -> None:
    actor = taken_on(run, tmp_path / "a")
    one = Outcome.of(actor.step())
    assert actor.reset_config(Task(1, run.model_dump_json(), str(tmp_path / "b"), baselines=True).config())
    two = Outcome.of(actor.step())
    assert two.metrics["train/loss"] == one.metrics["train/loss"]
    assert {"raw_pixels/knn_top1", "random_init/knn_top1"} <= two.metrics.keys()
    assert (epochs(tmp_path / "a"), epochs(tmp_path / "b")) == ([1], [1])


def test_a_loss_that_is_no_number_is_an_outcome_and_the_process_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    absurd = tiny({"training.optimizer": "sgd", "training.lr": 1e30, "training.clip_grad": None})
    actor = taken_on(absurd, tmp_path)
    result = actor.step()
    assert result["done"]
    assert "at step" in (Outcome.of(result).failure or "")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        ("The actor is dead because its node has died. Node Id: 1f", True),
        ("The actor died.\n\tthe actor's node was terminated unexpectedly: health check failed", True),
        ("RuntimeError: the job was preempted by my own data loader", False),
        ("Traceback\n  File x\nValueError: node is dead", False),
        ("The actor 1f is unavailable: RpcError. The task may or may not have been executed", True),
        ("The actor is dead because its worker process has died.", False),
    ],
)
def test_a_lost_node_is_told_by_rays_words_and_not_by_a_trials(error: str, lost: bool):
    assert Failure.of(error).node_lost == lost


def test_what_is_wrong_with_a_config_is_told_whole():
    told = """Traceback (most recent call last):
  File "hjepa/data/source.py", line 69, in require_folder
    raise ConfigError(f"data.data_path: {data_path!r} {problem}.")
hjepa.schema.base.ConfigError: data.data_path: 'photos' does not exist.
Set data.data_path to a folder.
"""
    expected = "data.data_path: 'photos' does not exist. Set data.data_path to a folder"
    assert (Failure.of(told).reason, Failure.of(told).by_config) == (expected, True)


def test_a_trial_whose_config_cannot_run_here_leaves_its_process_to_the_next(tiny: Tiny, tmp_path: Path):
    bad = tiny({"data.batch_size": 2000})
    actor = taken_on(bad, tmp_path / "a", only_here=True)
    ended = actor.step()
    assert ended["done"]
    assert str(Outcome.of(ended).failure).startswith(
        "data.batch_size 2000 x training.accumulation_steps 1 is more"
    )
    assert actor.reset_config(Task(1, tiny().model_dump_json(), str(tmp_path / "b")).config())
    assert Outcome.of(actor.step()).finished
    with pytest.raises(ConfigError, match=r"data\.batch_size 2000"):  # another node may have more images
        taken_on(bad, tmp_path / "c").step()


OVERFLOW = """
import torch
from orchestrator.engine.trial import cap_gpu_memory
cap_gpu_memory(0.25)
whole = torch.cuda.get_device_properties(0).total_memory
torch.empty(whole // 8, dtype=torch.uint8, device="cuda")
try:
    torch.empty(whole // 4, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError:
    print("held")
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_trial_on_a_part_of_a_gpu_gets_no_more_memory_than_that():
    done = subprocess.run([sys.executable, "-c", OVERFLOW], capture_output=True, text=True, check=True)
    assert done.stdout == "held\n"
