"""hjepa-train goes on after a break: nothing lost, nothing twice, and what was passed over is said."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hjepa import RunConfig
from hjepa.features import Features, write_features
from hjepa.run import build_run
from hjepa.schema import ConfigError
from tests.hjepa.resuming import checkpoint, epochs, numbers, started, tear, trained, wait_for_epochs
from tests.hjepa.resuming import write as write

Tiny = Callable[..., RunConfig]


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
