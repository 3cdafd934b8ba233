"""Completion in real shells: commands, options, files, sweeps, keys."""

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from hjepa.cli import parser as train_parser
from hjepa.data.fetch import ARCHIVES
from orchestrator.cli import COMMANDS
from orchestrator.cli.completion.commands import read_commands
from orchestrator.cli.completion.train import TRAIN
from orchestrator.cli.completion.write import KEYS, text

SHELLS = ("bash", "zsh", "fish")
# Each calls the shell's own machinery as a press of TAB would, and prints what it is offered.
ASK = {
    "bash": """
        source ./script; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        "_${1//-/_}"; printf '%s\\n' "${COMPREPLY[@]}"
    """,
    # Outside of its editor zsh's compadd refuses to work, so what it would be given is printed.
    "zsh": """
        compdef() { }
        compadd() { while [[ $1 != -- ]]; do [[ $1 == -S ]] && end=$2; shift; done; shift
            for offer in $@; do [[ $offer == $word* ]] && print -r -- $offer$end; done }
        _files() { for offer in ${word}*(N); do
            [[ -d $offer || ($1 == -g && $offer == ${~2}) || -z $1 ]] && print -r -- $offer; done }
        source ./script; words=("$@"); CURRENT=$#; "_${1//-/_}"
    """,
    "fish": """
        source ./script; complete -C (string join ' ' -- $argv) | string replace -r '\\t.*' ''
    """,
}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    (tmp_path / "script").write_text(script(request.param))
    (tmp_path / "spaces").mkdir()
    for name in ("fpn.yaml", "fpn.yml", "fpn.txt", "spaces/loss.yaml"):
        (tmp_path / name).touch()
    for name in ("fpn", "fpn-wider", "other", "half-made"):
        (tmp_path / "results" / name).mkdir(parents=True)
        if name != "half-made":
            (tmp_path / "results" / name / "definition.json").touch()
    (tmp_path / "elsewhere/far").mkdir(parents=True)
    (tmp_path / "elsewhere/far/definition.json").touch()
    return request.param


@cache
def script(shell: str) -> str:
    command = [sys.executable, "-m", "orchestrator.cli", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def offered(shell: str, folder: Path, line: str) -> set[str]:
    """What the shell offers for the last word of a line."""
    quiet = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    name = [] if shell == "fish" else ["ask"]
    done = subprocess.run(
        [shell, *quiet, "-c", ASK[shell], *name, *line.split(" ")],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    return {word.rstrip("/") for word in done.stdout.split("\n") if word}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hjepa-sweep re", {"report", "reproduce", "resume", "retry", "results"}),
        ("hjepa-sweep fpn", {"fpn.yaml", "fpn.yml"}),
        ("hjepa-sweep sp", {"spaces"}),
        ("hjepa-sweep spaces/", {"spaces/loss.yaml"}),
        ("hjepa-sweep fpn.yaml --tr", {"--trials", "--tracking-uri"}),
        ("hjepa-sweep run fpn.yaml --base fpn.", {"fpn.yaml", "fpn.yml"}),
        ("hjepa-sweep fpn.yaml --set model.fpn.f", {"model.fpn.feature_dim=", "model.fpn.fusion_method="}),
        ("hjepa-sweep fpn.yaml --set scheduler.max", {"scheduler.max_epochs="}),
        ("hjepa-sweep fpn.yaml --trials ", set()),
        ("hjepa-sweep status fpn", {"fpn", "fpn-wider"}),
        ("hjepa-sweep resume --results elsewhere f", {"far"}),
        ("hjepa-sweep status --results else", {"elsewhere"}),
        ("hjepa-sweep completion z", {"zsh"}),
        ("hjepa-sweep check fpn.yaml --br", {"--brief"}),
        ("hjepa-sweep export fpn --trial 3 -o fpn.", {"fpn.txt", "fpn.yaml", "fpn.yml"}),
        ("hjepa-sweep export fpn --trial 3 --checkpoint fpn.t", {"fpn.txt"}),
        ("hjepa-sweep logs fpn -f fp", {"fpn", "fpn-wider"}),
        ("hjepa-train mig", {"migrate"}),
        ("hjepa-train fpn.yaml --set masking.num_m", {"masking.num_masks="}),
        ("hjepa-train train fpn.yaml --t", {"--test"}),
        ("hjepa-train fpn.yaml --set scheduler.", set()),
    ],
)
def test_a_shell_offers_what_can_follow(shell: str, tmp_path: Path, line: str, expected: set[str]) -> None:
    assert offered(shell, tmp_path, line) == expected


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_offers_the_files_of_a_folder_with_a_space_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script("fish"))
    (tmp_path / "my spaces").mkdir()
    (tmp_path / "my spaces/fpn.yaml").touch()
    assert offered("fish", tmp_path, r"hjepa-sweep my\ spaces/") == {"my spaces/fpn.yaml"}


def test_every_command_and_option_is_offered() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    printed = script("bash")
    for option in re.findall(r"--[a-z-]+", help_text.split("examples:")[0]):
        assert option in printed
    assert f'_hjepa_offer "{" ".join(COMMANDS)}"' in printed


def test_what_is_known_of_the_core_is_up_to_date() -> None:
    assert KEYS.read_text(encoding="utf-8") == text(), "run: make docs"
    asked = read_commands(train_parser())
    assert list(asked) == list(TRAIN)
    for name, command in asked.items():
        assert (command.about, list(command.options)) == (TRAIN[name].about, list(TRAIN[name].options))
    assert TRAIN["fetch"].positional.split() == sorted(ARCHIVES)


def test_the_script_is_printed_without_loading_torch_or_ray() -> None:
    code = (
        "import sys; from orchestrator.cli import main; main(['completion', 'bash'])\n"
        "print(sorted({'torch', 'ray', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
