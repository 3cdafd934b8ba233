"""Bad input: one clear message, exit code 2, nothing on disk."""

import os
import subprocess
import sys
from typing import Any

import pytest

from orchestrator.cli import COMMANDS, main, parse
from orchestrator.cli.run import words_again
from tests.workplace import SPACE, TINY, Workplace

LR = {"training.lr": {"loguniform": [1e-4, 1e-2]}}


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        ({}, ["missing.yaml"], "missing.yaml: no such file"),
        ({}, ["tiny"], "tiny: no such file. Nearest: tiny.yaml."),
        ({}, ["statu", "tiny"], "statu: no such command or file. Nearest: status."),
        ({}, ["tiny.yaml", "--set", "serach.num_trials=3"], "Nearest: search.num_trials."),
        ({"space": {"model.fpn.fusion_methd": {"choice": ["add"]}}}, [], "Nearest: model.fpn.fusion_method"),
        ({"space": {"training.lr": {"uniform": [-1, 1]}}}, [], "space.training.lr"),
        ({"space": {"loss.type": {"choice": ["mse", "l7"]}}}, [], "space.loss.type"),
        ({"objective": {"metric": "val/knn_top2"}}, [], "val/knn_top1"),
        (
            {"space": {"loss.type": {"choice": ["mse", "cosine"]}}, "objective": {"metric": "train/loss"}},
            [],
            "loss.type",
        ),
        ({"space": LR | {"model.ema.momentum": {"uniform": [0.9, 1], "when": {"no.key": 1}}}}, [], "no.key"),
        (
            {"space": {"model.fpn.fusion_method": {"choice": ["add", "concat"]}}},
            [],
            "model.fpn.use_fpn is false",
        ),
        ({}, ["tiny.yaml", "--set", "data.dataset=cifar10"], "data.data_path"),
        ({}, ["tiny.yaml", "--set", "training.lrr=1"], "Nearest: training.lr"),
        ({}, ["tiny.yaml", "--set", "training.lr"], "must read key=value"),
        ({}, ["tiny.yaml", "--base", "nothing.yaml"], "nothing.yaml: no such file"),
        ({"resources": {"cpus_per_worker": 4096}}, [], "resources.cpus_per_worker"),
        ({}, ["tiny.yaml", "--tracking-uri", "file:///mlruns"], "--tracking-uri"),
        (
            {},
            ["tiny.yaml", "--tracking-uri", "http://["],
            "--tracking-uri: tracking uri: is no URL. Allowed: ",
        ),
    ],
)
def test_bad_input_gets_one_message_and_touches_nothing(
    workplace: Workplace, space: dict[str, Any], arguments: list[str], message: str
) -> None:
    workplace.write("tiny.yaml", SPACE | space)
    before = workplace.files()
    done = workplace.ask(*(arguments or ["tiny.yaml"]))
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("hjepa-sweep: ")
    assert "Traceback" not in done.stderr
    assert workplace.files() == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["status", "tiny", "--storage", "postgresql://db/s"], "--storage"),
        (["stop", "tiny", "--storage", "postgresql://db/s"], "--storage"),
        (["doctor", "--address", "auto", "--tracking-uri", "http://h"], "--tracking-uri, --address"),
    ],
)
def test_what_counts_for_nothing_beside_a_cluster_is_refused(
    words: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.cli.use_cluster", lambda address: None)  # for a process without Ray
    assert main([*words, "--to", "ray"]) == 2
    assert capsys.readouterr().err.startswith(f"hjepa-sweep: --to ray: excludes {named}: ")


def test_a_time_to_try_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for none in ("nan", "0", "-1", "soon"):
        with pytest.raises(SystemExit, match="2"):
            main(["sync", "tiny", "--timeout", none])
        assert f"--timeout: {none}: must be a number of more than 0 seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "--watch", "fpn"], "0.2 seconds; the sweep's name stands before --watch"),
        (["status", "fpn", "--watch", "0.1"], "--watch: 0.1: must be a number, of at least 0.2 seconds"),
        (["plan", "--simulate", "fpn.yaml"], "from 1 to 1000; the space stands before --simulate"),
        (["plan", "fpn.yaml", "--simulate", "1e3"], "--simulate: 1e3: must be a whole number from 1 to 1000"),
        (["fpn.yaml", "--trails", "4"], "unrecognized arguments: --trails 4; nearest: --trials"),
        (["status", "fpn", "--jsn"], "unrecognized arguments: --jsn; nearest: --json"),
        (["status", "fpn", "zzz"], "unrecognized arguments: zzz"),
    ],
)
def test_what_an_option_cannot_take_is_refused_by_its_commands_usage(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    told = capsys.readouterr().err
    assert told.endswith(f"{said}\n")
    assert told.startswith(f"usage: hjepa-sweep {words[0] if words[0] in COMMANDS else 'run'} ")


@pytest.mark.parametrize(
    "given", [["s.yaml", "--trials", "4"], ["run", "--trials", "4", "s.yaml"], ["run", "--", "-s.yaml"]]
)
def test_the_words_that_go_on_with_a_sweep_are_those_that_have_begun_it(given: list[str]) -> None:
    begun = parse(given)
    again = parse(words_again(begun.given))
    assert (again.space, again.trials, again.given) == (begun.space, begun.trials, begun.given)


def test_a_folder_that_holds_something_else_is_left_alone(workplace: Workplace) -> None:
    (workplace.folder / "results/tiny").mkdir(parents=True)
    (workplace.folder / "results/tiny/thesis.txt").write_text("years of work")
    before = workplace.files()
    done = workplace.ask("tiny.yaml")
    assert done.returncode == 2
    assert "holds files but no sweep" in done.stderr
    assert workplace.files() == before


def test_train_refuses_a_data_path_that_does_not_exist(workplace: Workplace) -> None:
    workplace.write("cifar.yaml", TINY | {"data": {"dataset": "cifar10", "data_path": "no/where"}})
    before = workplace.files()
    done = workplace.train("cifar.yaml")
    assert done.returncode == 2
    assert "data.data_path" in done.stderr
    assert "Traceback" not in done.stderr
    assert workplace.files() == before


@pytest.mark.parametrize("arguments", [["hjepa"], ["hjepa", "chek", "base.yaml"], ["orchestrator.cli"]])
def test_who_asks_for_no_command_is_told_of_those_there_are(
    workplace: Workplace, arguments: list[str]
) -> None:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=workplace.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Nearest: check." in done.stderr if "chek" in arguments else "check " in done.stderr


@pytest.mark.parametrize(
    "command", [["hjepa", "check", "base.yaml"], ["orchestrator.cli", "completion", "bash"]]
)
def test_output_that_nobody_reads_any_more_is_no_error(workplace: Workplace, command: list[str]) -> None:
    unread, write = os.pipe()
    os.close(unread)
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=workplace.folder,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_help_teaches_without_loading_torch_or_ray() -> None:
    code = (
        "import sys, runpy; sys.argv = ['hjepa-sweep', '--help']\n"
        "try: runpy.run_module('orchestrator.cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert done.stdout.rstrip().endswith("[]")
