"""The examples of docs/search-spaces.md, as they stand there."""

import re
import shlex
from pathlib import Path

import pytest

from orchestrator.cli import parse
from orchestrator.space import Sweep, load_sweep
from orchestrator.space.distribution import ARGUMENTS
from orchestrator.space.expression import FUNCTIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/search-spaces.md").read_text(encoding="utf-8")
BLOCKS = [re.sub(r"(?m)^    ", "", block) for block in re.findall(r"(?m)(?:^    .*\n)+", PAGE)]
SPACES = [block for block in BLOCKS if "space:" in block]


def loaded(text: str, folder: Path) -> Sweep:
    for name in ("configs", "search_spaces"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "docs").mkdir()
    (folder / "docs/example.yaml").write_text(text)
    return load_sweep(folder / "docs/example.yaml")


@pytest.mark.parametrize("text", SPACES, ids=range(len(SPACES)))
def test_every_example_is_a_valid_space(text: str, tmp_path: Path) -> None:
    assert loaded(text, tmp_path).num_trials > 0


def test_the_examples_do_what_the_page_says(tmp_path: Path) -> None:
    (ablation,) = (text for text in SPACES if "one_at_a_time" in text)
    sweep = loaded(ablation, tmp_path)
    with_pyramid = [v for v in sweep.listed or [] if v["model.fpn.use_fpn"]]
    assert [v["model.fpn.fusion_method"] for v in with_pyramid] == ["add", "concat"]
    assert sweep.num_trials == 4


def test_the_other_blocks_are_commands() -> None:
    commands = [block for block in BLOCKS if block not in SPACES]
    for command in commands:
        assert parse(shlex.split(command)[1:]).command == "check"
    assert commands


def test_every_distribution_and_function_is_named() -> None:
    assert set(re.findall(r"(?m)^\| `(\w+): ", PAGE)) == set(ARGUMENTS)
    (named,) = re.findall(r"\| functions \| `(.*)` \|", PAGE)
    assert {*named.split(), "len", "sum"} == set(FUNCTIONS)
