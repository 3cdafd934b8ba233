"""Which run hjepa-train goes on with, and which folders are whose."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hjepa import RunConfig
from hjepa.folders import LOCK, Claim
from hjepa.resume import changes
from hjepa.schema import to_yaml
from tests.hjepa.resuming import checkpoint, epochs, numbers, started, trained
from tests.hjepa.resuming import write as write

Tiny = Callable[..., RunConfig]


def test_a_run_that_died_before_its_first_checkpoint_starts_anew_in_its_own_folder(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    write(**{"training.epochs": 2})
    assert trained() == 0
    for file in Path("run/checkpoints").iterdir():
        file.unlink()
    assert trained("checkpoint.resume=auto") == 0
    assert "no checkpoint in run/checkpoints yet; the run starts anew" in capsys.readouterr().out
    assert epochs("run") == [1, 2]
    assert not Path("run-2").exists()


def test_what_another_run_left_without_a_checkpoint_is_left_alone(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")
    write(**{"training.epochs": 1})
    assert trained("checkpoint.resume=auto") == 0
    assert "run holds an earlier run; this one goes to run-2" in capsys.readouterr().out
    assert [file.name for file in Path("run").iterdir()] == ["notes.txt"]


def test_a_run_is_gone_on_with_in_the_folder_that_its_checkpoint_is_in(write: Callable[..., None]):
    write(**{"training.epochs": 2})
    assert trained() == 0
    assert trained("seed=7") == 0
    first = (Path("run") / "metrics.jsonl").read_bytes()
    expected = numbers("run-2")
    assert trained("seed=7", f"checkpoint.resume={checkpoint('run-2', 1)}") == 0
    assert numbers("run-2") == expected
    assert (Path("run") / "metrics.jsonl").read_bytes() == first


def test_a_checkpoint_of_another_run_starts_records_of_its_own(write: Callable[..., None]):
    write(**{"training.epochs": 2})
    assert trained() == 0
    first = (Path("run") / "metrics.jsonl").read_bytes()
    assert trained(f"checkpoint.resume={checkpoint('run', 1)}", "logging.log_dir=other") == 0
    assert epochs("other") == [2]
    assert (Path("run") / "metrics.jsonl").read_bytes() == first


def test_a_second_run_does_not_mix_its_checkpoints_with_the_firsts(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    write(**{"training.epochs": 2, "checkpoint.checkpoint_dir": "kept"})
    assert trained() == 0
    assert trained("seed=7", "training.epochs=1") == 0
    told = capsys.readouterr().out
    assert "kept holds checkpoints of an earlier run; new ones go to kept-2." in told.splitlines()
    assert sorted(file.name for file in Path("kept").glob("*.pt")) == ["epoch_00001.pt", "epoch_00002.pt"]
    assert [file.name for file in Path("kept-2").glob("*.pt")] == ["epoch_00001.pt"]


def test_auto_goes_on_with_the_run_of_the_same_result(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    write(**{"training.epochs": 1})
    assert trained("seed=1") == 0
    first = (Path("run") / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    # None is there yet: it begins one of its own, and says what is another one's.
    assert trained("seed=2", "loss.type=smoothl1", "checkpoint.resume=auto") == 0
    told = capsys.readouterr().out
    assert "finished already" not in told
    assert (
        'checkpoint.resume auto: run/checkpoints is of another run: loss.type was "mse", is "smoothl1"; '
        "seed was 1, is 2. This one starts anew. To go on from it all the same: "
        f"--set checkpoint.resume={checkpoint('run', 1)}"
    ) in told.splitlines()
    assert "run holds an earlier run; this one goes to run-2." in told.splitlines()
    # Now it is; more epochs, and what changes no result, keep it that.
    more = ("training.epochs=2", "checkpoint.save_frequency=2", "logging.log_frequency=1")
    assert trained("seed=2", "loss.type=smoothl1", "checkpoint.resume=auto", *more) == 0
    told = capsys.readouterr().out
    assert f"goes on after epoch 1 from {checkpoint('run-2', 1)}" in told
    assert "training.epochs was 1, is 2: learning rate and EMA momentum are from here on as" in told
    assert epochs("run-2") == [1, 2]
    assert (Path("run") / "metrics.jsonl").read_bytes() == first
    assert not Path("run-3").exists()


def test_auto_finds_the_run_in_a_folder_of_checkpoints_that_several_have(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    write(**{"training.epochs": 1, "checkpoint.checkpoint_dir": "kept"})
    assert trained("seed=1") == 0
    assert trained("seed=2", "checkpoint.resume=auto") == 0
    told = capsys.readouterr().out
    assert "checkpoint.resume auto: kept is of another run: seed was 1, is 2." in told
    assert "kept holds checkpoints of an earlier run; new ones go to kept-2." in told.splitlines()
    assert trained("seed=2", "checkpoint.resume=auto", "training.epochs=2") == 0
    assert "goes on after epoch 1 from kept-2/epoch_00001.pt" in capsys.readouterr().out
    assert (epochs("run"), epochs("run-2")) == ([1], [1, 2])
    # Its records lost, as those on a disk of the job alone.
    shutil.rmtree("run-2")
    assert trained("seed=2", "checkpoint.resume=auto", "training.epochs=3") == 0
    assert "goes on after epoch 2 from kept-2/epoch_00002.pt" in capsys.readouterr().out
    assert (epochs("run"), epochs("run-2")) == ([1], [3])


def test_auto_knows_a_run_whose_config_is_lost_by_its_checkpoint(write: Callable[..., None]):
    write(**{"training.epochs": 1})
    assert trained() == 0
    Path("run/config.yaml").unlink()
    assert trained("checkpoint.resume=auto", "training.epochs=2") == 0
    assert epochs("run") == [1, 2]
    Path("run/config.yaml").unlink()
    assert trained("checkpoint.resume=auto", "training.epochs=2", "seed=7") == 0
    assert epochs("run-2") == [1, 2]


def test_of_a_path_its_last_part_says_whether_a_run_is_the_same(tiny: Tiny):
    here = {"data.dataset": "cifar10", "data.data_path": "/scratch/job1/cifar"}
    saved = tiny(here).model_dump(mode="json")
    assert changes(saved, tiny(here | {"data.data_path": "/scratch/job2/cifar"})) == []
    (told,) = changes(saved, tiny(here | {"data.data_path": "/scratch/job1/other"}))
    assert told == 'data.data_path was "/scratch/job1/cifar", is "/scratch/job1/other"'
    assert changes(saved, tiny(here | {"data.num_workers": 3, "threads": None, "training.epochs": 9})) == []


def test_auto_goes_on_with_the_branch_that_was_trained_last(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    write()
    assert trained() == 0
    assert trained(f"checkpoint.resume={checkpoint('run', 1)}", "training.lr=0.02", "training.epochs=2") == 0
    assert (
        "run/checkpoints: 2 checkpoints of epochs after 1, which come anew, moved to run/checkpoints/aside."
    ) in capsys.readouterr().out.splitlines()
    branch = numbers("run")
    assert trained("checkpoint.resume=auto", "training.lr=0.02") == 0
    assert f"goes on after epoch 2 from {checkpoint('run', 2)}" in capsys.readouterr().out
    assert numbers("run")[:2] == branch
    assert [file.name for file in sorted(Path("run/checkpoints/aside").iterdir())] == [
        "epoch_00002.pt",
        "epoch_00003.pt",
    ]


def test_auto_goes_on_with_a_branch_that_has_no_checkpoint_of_its_own_yet(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    write()
    assert trained() == 0
    absurd = ("training.lr=1e30", "training.optimizer=adamw", "training.clip_grad=null")
    assert trained(f"checkpoint.resume={checkpoint('run', 1)}", *absurd) == 1
    capsys.readouterr()
    assert trained("checkpoint.resume=auto", *absurd) == 1
    assert f"goes on after epoch 1 from {checkpoint('run', 1)}" in capsys.readouterr().out


def test_a_run_that_is_going_on_keeps_its_folder(
    write: Callable[..., None], tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    write(**{"training.epochs": 1})
    assert trained() == 0
    before = (Path("run") / "metrics.jsonl").read_bytes()
    with Claim(Path("run"), to_yaml(tiny())):
        for resume in ("auto", checkpoint("run", 1)):
            assert trained(f"checkpoint.resume={resume}", "training.epochs=2") == 2
            told = capsys.readouterr().err
            assert f"hjepa-train: run: a run is going on there, process {os.getpid()} on " in told
        assert trained("seed=7", "checkpoint.resume=auto") == 0
        assert trained() == 0
    assert (Path("run") / "metrics.jsonl").read_bytes() == before
    assert (epochs("run-2"), epochs("run-3")) == ([1], [1])
    assert not list(Path().glob(f"*/{LOCK}"))


def test_of_a_run_that_has_written_nothing_yet_auto_knows_whose_it_is(
    write: Callable[..., None], tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    write(**{"training.epochs": 1})
    with Claim(Path("run"), to_yaml(tiny({"seed": 1}))):
        assert trained("seed=1", "checkpoint.resume=auto") == 2
        assert "run: a run is going on there" in capsys.readouterr().err
        assert trained("seed=2", "checkpoint.resume=auto") == 0
    assert epochs("run-2") == [1]


def test_runs_of_other_folders_do_not_share_one_of_checkpoints(
    write: Callable[..., None], tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    write(**{"training.epochs": 1, "checkpoint.checkpoint_dir": "kept"})
    with Claim(Path("kept"), to_yaml(tiny())):
        assert trained("logging.log_dir=other") == 0
        assert "new ones go to kept-2." in capsys.readouterr().out
    assert [file.name for file in Path("kept-2").glob("*.pt")] == ["epoch_00001.pt"]
    with Claim(Path("kept-2"), to_yaml(tiny())):
        assert trained("checkpoint.resume=auto", "logging.log_dir=third") == 2
        assert "kept-2: a run is going on there" in capsys.readouterr().err
    assert not Path("third").exists()


def test_records_and_checkpoints_may_share_a_folder(write: Callable[..., None]):
    write(**{"training.epochs": 1, "checkpoint.checkpoint_dir": "run"})
    assert trained() == 0
    assert trained("checkpoint.resume=auto", "training.epochs=2") == 0
    assert epochs("run") == [1, 2]
    assert trained("seed=7") == 0
    assert epochs("run-2") == [1]
    assert Path("run-2/epoch_00001.pt").exists()


def test_two_runs_started_at_once_have_a_folder_each(write: Callable[..., None]):
    write(**{"training.epochs": 1})
    with started("seed=1") as first, started("seed=2") as second:
        for child in (first, second):
            _, told = child.communicate(timeout=120)
            assert child.returncode == 0, told
    assert (epochs("run"), epochs("run-2")) == ([1], [1])
    seeds = [yaml.safe_load(Path(folder, "config.yaml").read_text())["seed"] for folder in ("run", "run-2")]
    assert sorted(seeds) == [1, 2]
    assert not Path("run-3").exists()
