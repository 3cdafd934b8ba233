"""Sweeps beside each other."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.reporting.comparison import first_finalist, obstacles, side_by_side, words
from orchestrator.reporting.material import Material, read_material
from orchestrator.space import Sweep, load_sweep
from orchestrator.study.record import TrialRecord
from tests.recorded import command, finished, space


def test_sweeps_compare_where_they_measure_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    one = finished(results, space(tmp_path, name="one"))
    two = finished(results, space(tmp_path, name="two", search={"algorithm": "random", "num_trials": 6}))
    longer = {"type": "asha", "max_epochs": 4, "grace_epochs": 1, "reduction_factor": 3}
    three = finished(
        results,
        space(
            tmp_path,
            name="three",
            scheduler=longer,
            objective={"metric": "train/loss"},
            space={"training.lr": {"loguniform": [1e-4, 1e-2]}},
        ),
    )
    assert command(results, "compare", "one", "two") == 0
    said = capsys.readouterr().out
    assert "The objectives compare" in said
    assert "is not claimed: what was best of many trials is no estimate" in said
    assert obstacles([read_material(one), read_material(two)]) == []
    assert command(results, "compare", "one", "three") == 0
    said = capsys.readouterr().out
    assert "do not compare" in said
    assert "swept in all: training.lr" in said
    assert len(obstacles([read_material(two), read_material(three)])) == 2
    assert command(results, "compare", "one", "one") == 2


def _finalists(sweep: Sweep, rng: np.random.Generator, truths: Sequence[float]) -> Material:
    """The base and finalists of these true values, each with three fresh seeds, all with noise of 0.01."""
    records = []
    for number, truth in enumerate([0.5, *truths]):
        seen = truth + 0.01 * rng.standard_normal(4)
        reports = {sweep.max_epochs: {"val/knn_top1": float(seen[0])}}
        role = "search" if number else "base"
        records.append(TrialRecord(number, role, {}, reports=reports, outcome="completed"))
        for seed, value in enumerate(seen[1:]):
            reports = {sweep.max_epochs: {"val/knn_top1": float(value)}}
            own = 10 * (number + 1) + seed
            records.append(
                TrialRecord(own, "confirm", {}, number, seed, reports=reports, outcome="completed")
            )
    return Material(Path("made-up"), sweep, "finished", records, [])


def test_a_sweeps_finalist_is_compared_by_a_mean_that_nothing_chose(tmp_path: Path) -> None:
    """Of five finalists alike the best mean is too high by 1.16 of its standard errors on average."""
    sweep, rng, error = space(tmp_path), np.random.default_rng(0), 0.01 / math.sqrt(3)
    off, claimed = [], 0
    for _ in range(400):
        one, two = (_finalists(sweep, rng, [0.6] * 5) for _ in range(2))
        finalist = first_finalist(one)
        assert finalist is not None
        assert finalist.mean is not None
        off.append(finalist.mean - 0.6)
        claimed += "found better" in words([one, two])[-1]
    assert abs(np.mean(off)) < 3 * error / math.sqrt(400)
    # Three standard deviations of 400 above 5%.
    assert claimed / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_the_sweep_that_found_better_is_named(tmp_path: Path) -> None:
    sweep, rng = space(tmp_path), np.random.default_rng(0)
    one, two = _finalists(sweep, rng, [0.6, 0.6]), _finalists(sweep, rng, [0.8, 0.6])
    two = replace(two, sweep=space(tmp_path, name="two"))
    assert words([one, two])[-1].startswith("two found better, the first finalist of two less that of tiny")


def _standing(sweep: Sweep) -> Material:
    return Material(Path("made-up"), sweep, "finished", [], [])


def _against(folder: Path, metric: str, changes: dict[str, Any]) -> list[str]:
    """Why a sweep by `metric` does not compare with itself with some keys of its base changed."""
    path = space(folder, space={"training.lr": {"loguniform": [1e-4, 1e-2]}}).path
    common = {"objective.metric": metric, "evaluation.val_loss": True}
    return obstacles([_standing(load_sweep(path, overrides={**common, **own})) for own in ({}, changes)])


def test_losses_do_not_compare_where_bases_weigh_them_differently(tmp_path: Path) -> None:
    changes = {"loss.type": "smoothl1", "data.num_workers": 3, "training.lr": 0.01, "seed": 7}
    assert _against(tmp_path, "val/loss", changes) == [
        'loss.type: "mse", "smoothl1", which may change the loss\'s scale'
    ]
    assert _against(tmp_path, "val/knn_top1", changes) == []
    assert _against(tmp_path, "val/rankme", {"model.embed_dim": 48}) == [
        "model.embed_dim: 16, 48, which sets the features' width and so the most that it can be"
    ]


def test_figures_compare_where_only_training_differs_and_not_on_other_images(tmp_path: Path) -> None:
    changes = {"data.batch_size": 32, "data.augmentation.color_jitter": 0.2, "data.cache_budget_gb": 1.0}
    assert _against(tmp_path, "val/knn_top1", changes) == []
    assert _against(tmp_path, "val/knn_top1", {"data.split_seed": 3}) == [
        "data.split_seed: 0, 3, which changes what the objective measures"
    ]


def test_a_metric_that_one_of_them_measures_besides_is_no_obstacle(tmp_path: Path) -> None:
    besides = {"evaluation.linear_probe.enabled": True, "evaluation.lidar.enabled": True}
    assert _against(tmp_path, "val/knn_top1", {**besides, "evaluation.val_loss": False}) == []
    for metric, key, value in (
        ("val/knn_top1", "evaluation.knn.k", 3),
        ("val/loss", "data.val_fraction", 0.3),
    ):
        (why,) = _against(tmp_path, metric, {key: value})
        assert why.startswith(f"{key}: ")
    assert _against(tmp_path, "val/loss", {"evaluation.knn.k": 3}) == []


def test_a_trial_that_was_taken_up_again_counts_once_beside_another_sweep(tmp_path: Path) -> None:
    sweep = space(tmp_path)
    records = [
        TrialRecord(0, "base", {}, outcome="completed"),
        TrialRecord(1, "search", {}, outcome="failed"),
        TrialRecord(2, "search", {}, retries=1, outcome="completed"),
    ]
    table = side_by_side([replace(_standing(sweep), records=records)] * 2)
    assert ["trials", "2", "2"] in table.rows


@pytest.mark.parametrize("name", ["augmentation", "optim"])
def test_sweeps_of_keys_of_the_data_compare(name: str) -> None:
    sweep = load_sweep(Path(__file__).parents[3] / f"search_spaces/{name}.yaml")
    assert any(key.startswith("data.") for key in sweep.config.space)
    assert obstacles([_standing(sweep)] * 2) == []
