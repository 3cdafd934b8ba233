"""A key whose value determines another's, as a list of weights does the number of levels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.analysis import analyse
from orchestrator.analysis.findings import Effect, Findings
from orchestrator.reporting import sentences
from orchestrator.reporting.effects import effects_table, nested_table
from orchestrator.space import Sweep, load_sweep
from orchestrator.space.distribution import label
from orchestrator.study.record import TrialRecord
from tests.synthetic import METRIC, synthetic_sweep

SPACES = Path(__file__).parents[3] / "search_spaces"
LEVELS, WEIGHTS = "model.num_hierarchies", "loss.hierarchy_weights"
GAINS = {"[1.0]": -0.05, "[1.0, 0.5]": -0.02, "[1.0, 1.0]": 0.02}


@pytest.fixture(scope="module")
def hierarchy() -> Sweep:
    return load_sweep(SPACES / "hierarchy.yaml")


def ran(sweep: Sweep, seeds: Sequence[int]) -> Findings:
    """Findings of the whole design with these seeds, in which the weights of `GAINS` do something."""
    rng, records = np.random.default_rng(0), []
    points = {key: distribution.points or () for key, distribution in sweep.config.space.items()}
    for values in sweep.combinations(points):
        if sweep.broken(values) is None and values["seed"] in seeds:
            value = 0.9 + GAINS.get(label(values[WEIGHTS]), 0.0) + 0.002 * rng.standard_normal()
            records.append(trial(len(records), values, value, sweep.max_epochs))
    return analyse(sweep, records, with_importances=False)


def trial(number: int, values: dict[str, Any], value: float, epoch: int) -> TrialRecord:
    return TrialRecord(number, "search", values, reports={epoch: {METRIC: value}}, outcome="completed")


def effect_of(findings: Findings, key: str) -> Effect:
    return next(effect for effect in findings.effects.keys if effect.key == key)


def test_levels_are_compared_by_the_means_of_their_weights_and_weights_among_one_number(
    hierarchy: Sweep,
) -> None:
    found = ran(hierarchy, (42, 43, 44))
    levels, weights = effect_of(found, LEVELS), effect_of(found, WEIGHTS)
    means = {level.label: level.plain.value for level in weights.levels if level.plain}
    groups = {size: [n for n in means if n.count(",") == size - 1] for size in (1, 2, 3)}
    of = {size: np.mean([means[name] for name in names]) for size, names in groups.items()}
    # The design is balanced, so the model's differences are those of plain means.
    got = {level.label: level.effect.value for level in levels.levels if level.effect}
    assert got == pytest.approx({"1": of[1] - of[3], "2": of[2] - of[3]}, abs=2e-4)
    got = {level.label: level.effect.value for level in weights.levels if level.effect}
    apart = {name: means[name] - of[size] for size in (2, 3) for name in groups[size]}
    assert got == pytest.approx(apart, abs=2e-4)
    assert [level.label for level in levels.levels if level.shown] == ["1"]
    assert {level.label for level in weights.levels if level.shown} == {"[1.0, 0.5]", "[1.0, 1.0]"}


def test_terminal_and_tables_name_both_keys_and_what_is_compared(hierarchy: Sweep) -> None:
    found = ran(hierarchy, (42, 43, 44))
    said = "\n".join(sentences.effects(found))
    assert f"{WEIGHTS} against the mean of those with the same {LEVELS}: [1.0, 1.0] +0.0" in said
    why = f"Since {WEIGHTS} determines {LEVELS}, no two trials can differ in {LEVELS} alone"
    assert why in said
    assert why in effects_table(found).note
    assert f"  {LEVELS} 2: 0.89" in said
    (row,) = [row for row in effects_table(found).rows if row[:2] == [WEIGHTS, "[1.0]"]]
    assert (row[4], float(row[-1]) < 0.05) == ("-", True)  # alone with its number of levels; p stands first


def test_of_one_run_each_there_are_means_though_no_effects(hierarchy: Sweep) -> None:
    found = ran(hierarchy, (42,))
    said = "\n".join(sentences.effects(found))
    assert f"Since {WEIGHTS} determines {LEVELS}" in said
    assert "No effects: 7 trials" in said
    (nested,) = found.effects.nested
    rows = nested_table(nested, found).rows
    assert [row[:3] for row in rows[:3]] == [
        ["1", "[1.0]", "1"],
        ["2", "mean of these", "3"],
        ["2", "[1.0, 0.5]", "1"],
    ]
    assert float(rows[1][3]) == pytest.approx(np.mean([float(row[3]) for row in rows[2:5]]), abs=1e-4)


def test_choices_that_went_together_by_chance_are_not_said_to_determine_each_other(tmp_path: Path) -> None:
    space = {"loss.type": {"choice": ["mse", "cosine"]}, "model.depth": {"choice": [1, 2]}}
    sweep = synthetic_sweep(tmp_path, space=space, scheduler={"type": "fifo", "max_epochs": 2})
    pairs = [("mse", 1), ("cosine", 2)]
    records = [
        trial(n, {"loss.type": kind, "model.depth": depth}, 0.5, 2) for n, (kind, depth) in enumerate(pairs)
    ]
    assert analyse(sweep, records, with_importances=False).effects.nested == ()


def test_of_two_keys_that_determine_each_other_the_first_has_the_effect(tmp_path: Path) -> None:
    space = {"loss.type": {"choice": ["mse", "cosine"]}, "model.depth": {"choice": [1, 2]}}
    sweep = synthetic_sweep(
        tmp_path,
        space=space,
        constraints=["(loss.type == 'mse') == (model.depth == 1)"],
        scheduler={"type": "fifo", "max_epochs": 2},
    )
    rng, pairs = np.random.default_rng(0), [("mse", 1), ("cosine", 2)]
    records = [
        trial(
            n, {"loss.type": pairs[n % 2][0], "model.depth": pairs[n % 2][1]}, 0.5 + 0.1 * (n % 2) + noise, 2
        )
        for n, noise in enumerate(0.01 * rng.standard_normal(12))
    ]
    found = analyse(sweep, records, with_importances=False)
    first, second = found.effects.keys
    assert first.shown
    assert (second.p_together, second.within) == (None, ("loss.type",))
    assert any("Since model.depth determines loss.type" in line for line in sentences.effects(found))
