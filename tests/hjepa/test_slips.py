"""A slip in the name of a command is told, and a config's name is no slip."""

from pathlib import Path

import pytest

from hjepa.cli import COMMANDS, main
from hjepa.slips import meant_command


def test_a_word_like_a_command_is_a_slip_of_it_unless_it_may_be_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [meant_command(word, COMMANDS) for word in ("chek", "trian", "digits", "check.yaml")] == [
        "check",
        "train",
        None,
        None,
    ]
    Path("chek").touch()
    assert meant_command("chek", COMMANDS) is None


@pytest.mark.parametrize("words", [["chek"], ["chek", "run.yaml"]])
def test_hjepa_train_says_which_command_was_meant(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == "hjepa-train: chek: no such command or file. Nearest: check.\n"


def test_an_option_that_there_is_not_is_answered_with_the_nearest_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["check", "run.yaml", "--breif"])
    said = capsys.readouterr().err
    assert said.startswith("usage: hjepa-train check ")
    assert said.endswith("hjepa-train check: error: unrecognized arguments: --breif; nearest: --brief\n")


def test_a_config_of_the_working_folder_that_is_named_like_a_command_is_no_slip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs/quick").mkdir(parents=True)
    Path("configs/quick/train2.yaml").write_text("training: {epochs: 0}\n")
    assert main(["train2"]) == 2
    assert "configs/quick/train2.yaml: training.epochs" in capsys.readouterr().err
