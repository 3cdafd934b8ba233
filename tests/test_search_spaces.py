"""The search spaces that come with the project: each asks a question, is valid, and runs to its end."""

import re
from pathlib import Path

import pytest

from orchestrator.space import load_sweep
from tests.workplace import Workplace, records

ROOT = Path(__file__).parent.parent
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
NAMES = "architecture augmentation ema fpn hierarchy loss masking optim position regularizer"
SMALL = {
    "scheduler.max_epochs": 3,  # more than any warm-up, under which schedules are one and the same
    "scheduler.grace_epochs": 1,
    "confirm.seeds": 2,
    "model.depth": 1,
    "model.predictor.depth": 1,
    "data.batch_size": 64,
}


def question(space: Path) -> str:
    """The comment at the top of a file."""
    head = re.match(r"(?:#.*\n)+", space.read_text(encoding="utf-8"))
    return " ".join(line.lstrip("# ") for line in head[0].splitlines()) if head else ""


def test_the_starter_set_is_there() -> None:
    assert " ".join(space.stem for space in SPACES) == NAMES


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.stem)
def test_each_asks_a_question_and_has_trials_to_answer_it(space: Path) -> None:
    assert "?" in question(space)
    sweep = load_sweep(space)
    assert sweep.config.name == space.stem
    assert sweep.config.confirm.top_k > 0
    assert 3 <= sweep.num_trials <= 24
    assert sweep.max_epochs <= 18


def test_the_readme_lists_each_with_its_question() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| \[(\w+)\]\(search_spaces/(\w+)\.yaml\) \| (.*) \|", readme)
    assert [(name, file) for name, file, _ in rows] == [(space.stem, space.stem) for space in SPACES]
    for (_, _, shown), space in zip(rows, SPACES, strict=True):
        assert question(space).startswith(shown)


def test_plain_jepa_is_regularized_by_one_thing_at_a_time() -> None:
    sweep = load_sweep(ROOT / "search_spaces/regularizer.yaml")
    plain = sweep.base.loss
    assert (plain.use_vicreg, plain.use_sigreg, plain.use_ntxent) == (False, False, False)
    losses = [sweep.resolve(values).loss for values in sweep.listed or []]
    assert [(loss.use_vicreg, loss.use_sigreg) for loss in losses].count((True, False)) == 4
    assert [(loss.use_vicreg, loss.use_sigreg) for loss in losses].count((False, True)) == 2
    assert len(losses) == 6


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.stem)
def test_each_runs_to_its_end(workplace: Workplace, space: Path) -> None:
    changes = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    done = workplace.sweep(str(space), "--trials", "2", *changes)
    assert done.returncode == 0, done.stdout + done.stderr
    roles = [record.role for record in records(workplace, space.stem)]
    # The base, two trials, and both finalists with two fresh seeds each.
    assert roles == ["base", "search", "search", *["confirm"] * 4]
    assert "fresh seeds" in done.stdout
