"""Shares of the objective's variance, and which of them may be noise."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from orchestrator.analysis import analyse
from orchestrator.analysis.design import design_of
from orchestrator.analysis.importances import importances
from orchestrator.analysis.table import table_of
from orchestrator.reporting.effects import effects_table
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord
from tests.synthetic import METRIC, Truth, drawn, simulated, synthetic_sweep


def _fanova(sweep: Sweep, records: list[TrialRecord]) -> tuple[dict[str, float], float]:
    """Each key's share, and the floor."""
    table = table_of(sweep, records)
    found = importances(table, design_of(sweep, table.records))
    assert found is not None
    return {key.key: key.fanova for key in found.keys}, found.fanova_floor


@pytest.fixture
def few_shuffles(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a floor that need not hold in 19 of 20 sweeps."""
    monkeypatch.setattr(sys.modules[importances.__module__], "PERMUTATIONS", 2)


@pytest.mark.usefixtures("few_shuffles")
def test_importances_let_optuna_announce_nothing(sweep: Sweep) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    assert analyse(sweep, simulated(sweep, Truth())).importances is not None
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


def test_a_key_of_noise_lies_below_the_floor_and_one_that_matters_above(many_keys: Sweep) -> None:
    shares, floor = _fanova(many_keys, drawn(np.random.default_rng(1), 30, gain=0.0))
    assert 0.1 < max(shares.values()) < floor  # a share that looks like something
    shares, floor = _fanova(many_keys, drawn(np.random.default_rng(0), 30, gain=0.05))
    assert [key for key, share in shares.items() if share > floor] == ["loss.type"]


@pytest.mark.usefixtures("few_shuffles")
def test_shares_are_the_same_however_small_the_objective_is(many_keys: Sweep) -> None:
    """Nor is it an error where all values are nearly the same."""
    records = drawn(np.random.default_rng(0), 30, gain=0.05)
    small = [
        replace(record, reports={2: {METRIC: record.reports[2][METRIC] * 2.0**-40}}) for record in records
    ]
    assert _fanova(many_keys, small) == _fanova(many_keys, records)


def test_a_list_of_weights_that_matters_has_a_share_and_a_p(tmp_path: Path) -> None:
    space = {"loss.hierarchy_weights": {"simplex": 2}, "loss.type": {"choice": ["mse", "cosine"]}}
    sweep = synthetic_sweep(tmp_path, space=space, scheduler={"type": "fifo", "max_epochs": 2})
    rng, records = np.random.default_rng(0), []
    for number, weight in enumerate(np.linspace(0, 1, 24).round(6).tolist()):
        values = {"loss.hierarchy_weights": [weight, 1 - weight], "loss.type": ["mse", "cosine"][number % 2]}
        reports = {2: {METRIC: 0.5 + 0.1 * weight + 0.01 * float(rng.standard_normal())}}
        records.append(TrialRecord(number, "search", values, reports=reports, outcome="completed"))
    shares, floor = _fanova(sweep, records)
    assert shares["loss.hierarchy_weights"] > floor
    (row, *_) = effects_table(analyse(sweep, records, with_importances=False)).rows
    assert (*row[:3], float(row[-1]) < 0.05) == ("loss.hierarchy_weights", "all weights", "24", True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_some_key_of_noise_passes_the_floor_in_one_sweep_of_20(many_keys: Sweep) -> None:
    passed = []
    for seed in range(60):
        shares, floor = _fanova(many_keys, drawn(np.random.default_rng(seed), 30, gain=0.0))
        passed.append(max(shares.values()) > floor)
    # Two standard deviations of 60.
    assert np.mean(passed) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 60)


@pytest.mark.usefixtures("few_shuffles")
def test_a_key_below_another_gets_none_of_its_share(many_keys: Sweep) -> None:
    records = drawn(np.random.default_rng(0), 60, gain=0.0)
    for record in records:
        value = record.reports[2][METRIC] + 0.1 * record.values["model.fpn.use_fpn"]
        record.reports = {2: {METRIC: value}}
    shares, floor = _fanova(many_keys, records)
    assert shares["model.fpn.use_fpn"] > 0.8 > floor
    assert shares["model.fpn.fusion_method"] < 0.02
