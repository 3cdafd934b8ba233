"""hjepa-train goes on after a break: nothing lost, nothing twice, and what was passed over is said."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from hjepa import RunConfig
from hjepa.cli import main
from hjepa.config import load_config
from hjepa.data import load_data
from hjepa.data.cache import alone_with
from hjepa.features import Features, write_features
from hjepa.folders import LOCK, Claim, is_used
from hjepa.resume import changes
from hjepa.run import build_run
from hjepa.schema import ConfigError, to_yaml

Tiny = Callable[..., RunConfig]

ROOT = Path(__file__).parents[2]
KEEP_ALL = {"checkpoint.save_frequency": 1, "checkpoint.keep_last_k": 99}


@pytest.fixture
def write(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write the tiny run as run.yaml, its records in run/, some keys changed."""
    monkeypatch.chdir(tmp_path)

    def write(**dotted: Any) -> None:
        changed = {"logging.log_dir": "run", "training.epochs": 3, **KEEP_ALL, **dotted}
        Path("run.yaml").write_text(yaml.safe_dump(tiny(changed).model_dump(mode="json")))

    return write


def trained(*sets: str) -> int:
    return main(["train", "run.yaml", *(f"--set={text}" for text in sets)])


def epochs(folder: str) -> list[int]:
    return [json.loads(line)["epoch"] for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def numbers(folder: str) -> list[dict[str, float]]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time")} for line in lines]


def checkpoint(folder: str, epoch: int) -> Path:
    return Path(folder) / "checkpoints" / f"epoch_{epoch:05d}.pt"


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def test_a_torn_newest_checkpoint_is_named_and_the_one_before_it_gone_on_from(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    write()
    assert trained() == 0
    expected = numbers("run")
    tear(checkpoint("run", 3))
    assert trained("checkpoint.resume=auto") == 0
    told = capsys.readouterr().out
    assert f"{checkpoint('run', 3)}: not a readable checkpoint: " in told
    assert f"goes on after epoch 2 from {checkpoint('run', 2)}" in told
    assert numbers("run") == expected
    assert not Path("run-2").exists()


def test_checkpoints_of_which_none_can_be_read_are_an_error_and_no_fresh_start(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    write(**{"training.epochs": 2})
    assert trained() == 0
    before = numbers("run")
    for epoch in (1, 2):
        tear(checkpoint("run", epoch))
    assert trained("checkpoint.resume=auto") == 2
    told = capsys.readouterr().err
    assert "of 2 in run/checkpoints none can be read" in told
    assert "epoch_00001.pt" in told
    assert numbers("run") == before
    assert not Path("run-2").exists()


def test_a_run_that_has_finished_says_so_and_writes_nothing(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    write(**{"training.epochs": 1})
    assert trained() == 0
    before = (Path("run") / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert trained("checkpoint.resume=auto") == 0
    told = capsys.readouterr().out
    assert (
        f"{checkpoint('run', 1)}: the run has finished already, 1 of 1 epochs; raise training.epochs" in told
    )
    assert "epoch 1/1" not in told
    assert (Path("run") / "metrics.jsonl").read_bytes() == before
    assert trained("checkpoint.resume=auto", "training.epochs=2") == 0
    assert epochs("run") == [1, 2]


def test_a_run_that_goes_on_takes_its_baselines_from_its_folder(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    write(**{"training.epochs": 1})
    assert trained() == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "knn top1" in line]
    assert len(told) == 2
    with monkeypatch.context() as patch:
        patch.setattr("hjepa.cli.baselines.baselines", lambda config: pytest.fail("measured again"))
        assert trained("checkpoint.resume=auto", "training.epochs=2") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "knn top1" in line] == told
    # Of another number of neighbours they are others.
    assert (
        trained(f"checkpoint.resume={checkpoint('run', 2)}", "training.epochs=3", "evaluation.knn.k=1") == 0
    )
    assert [line for line in capsys.readouterr().out.splitlines() if "knn top1" in line] != told


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
    assert f"goes on after epoch 1 from {checkpoint('run-2', 1)}" in capsys.readouterr().out
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


def test_torn_scores_are_told_and_the_run_goes_on(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    write(**{"training.epochs": 1})
    assert trained() == 0
    Path("run/checkpoints/scores.json").write_text('{"1": 0.')
    assert trained("checkpoint.resume=auto", "training.epochs=2") == 0
    assert "run/checkpoints/scores.json: cannot be read" in capsys.readouterr().out
    assert json.loads(Path("run/checkpoints/scores.json").read_text()).keys() == {"2"}


def test_a_tilde_is_the_users_own_folder(
    write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(
        **{"training.epochs": 1, "logging.log_dir": "~/run", "checkpoint.checkpoint_dir": "~/kept"},
    )
    assert trained() == 0
    assert trained("checkpoint.resume=~/kept/epoch_00001.pt", "training.epochs=2") == 0
    assert epochs("home/run") == [1, 2]
    assert not Path("~").exists()


# Before training


def test_a_missing_test_set_is_told_before_training(
    write: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for label in ("a", "b"):
        (tmp_path / "images" / "train" / label).mkdir(parents=True)
        for number in range(6):
            image = Image.new("RGB", (8, 8), (40 * number, 99, 9 * number))
            image.save(tmp_path / "images" / "train" / label / f"{number}.png")
    write(
        **{"data.dataset": "imagefolder", "data.data_path": "images", "data.batch_size": 4},
    )
    assert main(["train", "run.yaml", "--test"]) == 2
    said = capsys.readouterr()
    assert "epoch 1/" not in said.out
    assert str(Path("images")) in said.err
    assert "test" in said.err
    assert not Path("run").exists()


@pytest.mark.parametrize("key", ["checkpoint.checkpoint_dir", "logging.log_dir"])
def test_a_folder_that_cannot_be_is_told_before_training(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str], key: str
):
    Path("file").touch()
    write()
    assert trained(f"{key}=file/below") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"hjepa-train: {key}: file/below cannot be written: ")
    assert not Path("run").exists()


# Real processes


def started(*sets: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hjepa", "train", "run.yaml", *(f"--set={text}" for text in sets)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epochs(child: subprocess.Popen[str], count: int) -> None:
    lines = Path("run/metrics.jsonl")
    while not lines.exists() or lines.read_text().count("\n") < count:
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.01)


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_is_one_line_and_leaves_nothing(
    write: Callable[..., None], number: signal.Signals
):
    write(**{"data.cache_dir": "cache"})
    (place,) = load_data(load_config("run.yaml").data).places
    place.cache.unlink()
    with alone_with(place.cache), started() as child:  # which waits for the images that we seem to decode
        while not Path("run", LOCK).exists():
            assert child.poll() is None, child.communicate()[1]
            time.sleep(0.01)
        child.send_signal(number)
        _, told = child.communicate(timeout=60)
    assert told == "\nhjepa-train: interrupted.\n"
    assert child.returncode == 130
    assert not is_used(Path("run"))


def test_a_killed_run_gone_on_with_gives_the_numbers_of_an_uninterrupted_one(write: Callable[..., None]):
    write(**{"training.epochs": 12})
    assert trained("logging.log_dir=straight") == 0
    with started() as child:
        wait_for_epochs(child, 3)
        child.kill()
    assert len(epochs("run")) < 12, "the process was not killed on the way"
    assert trained("checkpoint.resume=auto") == 0
    assert numbers("run") == numbers("straight")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_nothing_half_done_and_says_how_to_go_on(
    write: Callable[..., None], number: signal.Signals
):
    write(**{"training.epochs": 500, "checkpoint.save_frequency": 2})
    with started() as child:
        wait_for_epochs(child, 3)
        child.send_signal(number)
        _, told = child.communicate(timeout=60)
        assert child.returncode == 130
    newest = max(Path("run/checkpoints").glob("*.pt"))
    assert f"interrupted; go on with --set checkpoint.resume={newest}" in told
    assert "Traceback" not in told
    saved = int(newest.stem.removeprefix("epoch_"))
    assert saved % 2 == 0
    assert saved >= epochs("run")[-1] - 2
    assert not list(Path("run/checkpoints").glob(".*.tmp"))


# Of SQLAlchemy's newest versions on what MLflow does.
@pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated:DeprecationWarning")
def test_an_interrupted_run_is_killed_at_mlflow_and_a_failed_one_failed(
    write: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    write(**{"training.epochs": 500, "logging.mlflow.enabled": True, "logging.mlflow.tracking_uri": store})
    with started() as child:
        wait_for_epochs(child, 1)
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=60)
    absurd = ("training.lr=1e30", "training.optimizer=sgd", "training.clip_grad=null", "training.epochs=2")
    assert trained(*absurd, "training.lr_schedule=constant") == 1
    assert "the run has failed" in capsys.readouterr().err
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("h-jepa")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    assert [run.info.status for run in found] == ["KILLED", "FAILED"]
    assert found[0].data.params["model.embed_dim"] == "16"


def test_a_file_that_is_no_checkpoint_is_one_message_and_status_2(
    write: Callable[..., None], tiny: Tiny, capsys: pytest.CaptureFixture[str]
):
    write()
    config = tiny()
    build_run(config).save(Path("start.pt"))
    write_features(config, Path("start.pt"), Path("model"))
    torch.save({"weight": torch.ones(2)}, "weights.pt")
    for file, told in (
        (
            "model/features.pt",
            "is no checkpoint to go on from: it holds config, model, mean, std, and",
        ),
        ("weights.pt", "not a checkpoint of this version."),
    ):
        assert trained(f"checkpoint.resume={file}") == 2
        assert f"{file}: {told}" in capsys.readouterr().err
    assert not Path("run").exists()
    Path("start.pt").rename("model/features.pt")
    with pytest.raises(ConfigError, match=r"features\.pt: is no features function: .* mean, std is missing"):
        Features.load("model")
