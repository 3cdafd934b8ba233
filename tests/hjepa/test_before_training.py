"""What hjepa-train says and refuses before it trains."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hjepa.cli import main
from hjepa.config import load_config
from hjepa.data import load_data
from hjepa.data.cache import alone_with
from hjepa.folders import LOCK, is_used
from tests.hjepa.resuming import started, trained
from tests.hjepa.resuming import write as write


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
    assert told.endswith("\nhjepa-train: interrupted.\n")  # on a busy machine after a word of its waiting
    assert child.returncode == 130
    assert not is_used(Path("run"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"evaluation.eval_frequency": 2}, True),
        ({"evaluation.eval_frequency": 2, "checkpoint.keep_best_n": 0}, False),
        # One checkpoint is all that is wanted, not a mistake.
        ({"evaluation.eval_frequency": 2, "checkpoint.save_frequency": 2}, False),
        ({}, False),
    ],
)
def test_that_no_best_checkpoint_can_be_kept_is_told_before_training(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str], changed: dict[str, Any], told: bool
):
    write(**{"training.epochs": 2, "checkpoint.keep_best_n": 3, **changed})
    assert trained() == 0
    lines = capsys.readouterr().out.splitlines()
    found = [number for number, line in enumerate(lines) if line.startswith("checkpoint.keep_best_n")]
    assert [lines[number] for number in found] == [
        "checkpoint.keep_best_n 3 keeps none: no checkpoint before the last of 2 epochs is evaluated; "
        "checkpoint.save_frequency 1 and evaluation.eval_frequency 2 need a common multiple below 2"
    ] * told
    assert all(number < lines.index(next(s for s in lines if s.startswith("epoch 1/"))) for number in found)
