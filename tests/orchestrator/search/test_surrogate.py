"""What the Gaussian process of `search.algorithm: gp` expects, and in which coordinates."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial
from scipy.optimize import check_grad

from orchestrator.search import surrogate
from orchestrator.search.axes import Axes, Axis
from orchestrator.search.surrogate import Surrogate
from tests.orchestrator.search.spaces import sweep_of

DISTRIBUTIONS: list[BaseDistribution] = [
    FloatDistribution(-1, 3),
    FloatDistribution(1e-4, 1e-2, log=True),
    FloatDistribution(0.1, 0.5, step=0.1),
    IntDistribution(1, 12),
    IntDistribution(2, 256, log=True),
    CategoricalDistribution(["mse", "cosine", "smoothl1"]),
    CategoricalDistribution(["0.1", "10", "1"]),
    CategoricalDistribution(["[0.2, 1.0]", "[0.6, 1.0]"]),
    CategoricalDistribution(["null"]),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
@given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_what_an_axis_draws_is_in_its_distribution_and_comes_back_from_its_code(
    distribution: BaseDistribution, seed: int, share: float
) -> None:
    axis, rng = Axis(distribution), np.random.default_rng(seed)
    codes = axis.draw(5, rng)
    for drawn in (codes, axis.near(codes, np.full(5, share), rng)):
        values = [axis.value(code) for code in drawn.tolist()]
        assert all(distribution._contains(distribution.to_internal_repr(value)) for value in values)
        assert [axis.code(value) for value in values] == pytest.approx(drawn)
        points = axis.points(drawn)
        assert points.shape == (5, axis.width)
        assert (points > -1e-9).all()
        assert (points < 1 + 1e-9).all()


def test_numbers_among_choices_keep_their_order_and_names_are_all_as_far_apart() -> None:
    weights = Axis(CategoricalDistribution(["0.1", "10", "1"]))
    codes = np.array([weights.code(choice) for choice in ("0.1", "1", "10")])
    assert weights.points(codes).tolist() == [[0.0], [0.5], [1.0]]
    names = Axis(CategoricalDistribution(["mse", "cosine", "smoothl1"]))
    at = names.points(np.arange(3.0))
    assert [np.linalg.norm(at[i] - at[j]) for i, j in ((0, 1), (0, 2), (1, 2))] == pytest.approx([1.0] * 3)


def test_every_value_of_a_range_is_as_likely() -> None:
    rng, axis = np.random.default_rng(0), Axis(IntDistribution(1, 4))
    counts = np.bincount([axis.value(code) for code in axis.draw(4000, rng)], minlength=5)[1:]
    assert counts.min() > 850
    rates = Axis(FloatDistribution(1e-4, 1e-2, log=True))
    assert np.median([rates.value(code) for code in rates.draw(4000, rng)]) == pytest.approx(1e-3, rel=0.15)


CONDITIONAL = {
    "loss.use_vicreg": {"choice": [True, False]},
    "loss.vicreg.weight": {"loguniform": [0.1, 10.0], "when": {"loss.use_vicreg": True}},
    "loss.hierarchy_weights": {"simplex": 2},
}


def test_trials_without_a_key_lie_together_and_apart_from_those_with_it(tmp_path: Path) -> None:
    axes = Axes(sweep_of(tmp_path, CONDITIONAL))
    other = {"loss.hierarchy_weights[0]": 0.3}
    off, on = {"loss.use_vicreg": "false"} | other, {"loss.use_vicreg": "true"} | other
    points = axes.points(axes.codes([off, off, on | {"loss.vicreg.weight": 1.0}]))
    assert (points[0] == points[1]).all()
    assert np.linalg.norm(points[0] - points[2]) == pytest.approx(math.sqrt(2)), "the choice, and the key"


def test_what_is_drawn_anywhere_or_near_has_the_keys_that_it_may_have(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, CONDITIONAL)
    axes, rng = Axes(sweep), np.random.default_rng(0)
    drawn = axes.anywhere(40, rng)
    near = axes.near(drawn, 0.2, np.full(40, 0.15), rng)
    switched = 0
    for row in range(40):
        params = [axes.params(codes, row) for codes in (drawn, near)]
        for one in params:
            # Optuna's fixed trial raises where a parameter that is asked for is missing.
            assert sweep.params(sweep.suggest(FixedTrial(one))).keys() == one.keys()
        switched += params[0]["loss.use_vicreg"] != params[1]["loss.use_vicreg"]
    assert 0 < switched < 20


def bowl(points: Any) -> Any:
    return -((points - 0.3) ** 2).sum(axis=-1)


def test_what_is_expected_between_points_is_near_the_truth_and_sure_where_much_is_known() -> None:
    rng = np.random.default_rng(0)
    points, others = rng.random((40, 2)), rng.random((200, 2))
    model = Surrogate(points, bowl(points), np.zeros(40))
    means, deviations = model.at(others)
    assert np.corrcoef(means, bowl(others))[0, 1] > 0.99
    _, far = model.at(np.array([[3.0, 3.0]]))
    assert deviations.max() < far[0]


def test_values_of_large_variance_count_little() -> None:
    """Of two groups of points at either end one is known, the other one guessed, as high above the rest."""
    points = np.array([[0.0], [0.01], [0.5], [0.51], [0.99], [1.0]])
    values = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    model = Surrogate(points, values, np.array([1e-6, 1e-6, 1e-6, 1e-6, 4.0, 4.0]))
    (known, guessed), (sure, unsure) = model.at(np.array([[0.0], [1.0]]))
    assert known > guessed
    assert sure < unsure


def test_supposing_a_point_leaves_what_is_expected_and_takes_away_what_it_would_tell() -> None:
    rng = np.random.default_rng(1)
    points = rng.random((12, 2))
    model = Surrogate(points, bowl(points), np.full(12, 1e-4))
    there = np.array([[0.9, 0.9]])
    before, unsure = model.at(there)
    model.suppose(there)
    after, sure = model.at(there)
    assert after == pytest.approx(before, abs=1e-3)
    assert sure < unsure


def test_how_bad_the_bad_ones_are_says_little_of_the_good_ones() -> None:
    """As where a metric blows up; their order stays."""
    rng = np.random.default_rng(2)
    points = rng.random((60, 1))
    values = np.where(points[:, 0] > 0.8, -1e6 * points[:, 0], bowl(points))
    means, _ = Surrogate(points, values, np.zeros(60)).at(np.linspace(0, 0.7, 50)[:, None])
    assert abs(np.linspace(0, 0.7, 50)[means.argmax()] - 0.3) < 0.1


def test_equal_values_everywhere_are_no_error() -> None:
    means, _ = Surrogate(np.random.default_rng(0).random((9, 2)), np.ones(9), np.zeros(9)).at(
        np.zeros((1, 2))
    )
    assert np.isfinite(means).all()


def test_the_slope_of_the_posterior_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By which the lengths are sought: a wrong one would find others, and no test of results would tell."""
    rng = np.random.default_rng(3)
    points = rng.random((15, 3))
    losses: list[Any] = []

    def minimize(loss: Any, start: Any, **_: Any) -> Any:
        losses.append(loss)
        return type("Found", (), {"x": start})

    monkeypatch.setattr(surrogate, "minimize", minimize)
    Surrogate(points, bowl(points), rng.uniform(0, 0.01, 15))
    (loss,) = losses
    for _ in range(5):
        logs = rng.normal(size=5) * 0.5
        slope = loss(logs)[1]
        off = check_grad(lambda x: loss(x)[0], lambda x: loss(x)[1], logs)
        assert off < 1e-4 * math.sqrt(float(slope @ slope) + 1)
