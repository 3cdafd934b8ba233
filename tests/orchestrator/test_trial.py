"""What runs in a trial's process, driven as Tune drives it but without Ray."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hjepa.config import RunConfig
from orchestrator.trial import Outcome, Task, TrialActor

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
    again = taken_on(run, tmp_path, resume=str(tmp_path / "epoch_00001.pt"))
    second, third = (Outcome.of(again.step()) for _ in range(2))
    assert (second.epoch, third.epoch, third.finished) == (2, 3, True)
    assert second.metrics["val/knn_top1"] == first[1].metrics["val/knn_top1"]
    assert epochs(tmp_path) == [1, 2, 3]


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
