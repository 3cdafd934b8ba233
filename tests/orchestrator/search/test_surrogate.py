"""What the Gaussian processes of `search.algorithm: gp` expect, and in which coordinates."""

import itertools
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


def at_the_end(values: Any) -> Any:
    """Of trials that are compared at one epoch."""
    return np.asarray(values, float)[:, None]


def test_what_is_expected_between_points_is_near_the_truth_and_sure_where_much_is_known() -> None:
    rng = np.random.default_rng(0)
    points, others = rng.random((40, 2)), rng.random((200, 2))
    model = Surrogate(points, at_the_end(bowl(points)))
    means, deviations = model.at(others)
    assert np.corrcoef(means, bowl(others))[0, 1] > 0.99
    _, far = model.at(np.array([[3.0, 3.0]]))
    assert deviations.max() < far[0]


def test_effects_that_add_up_are_known_of_combinations_that_were_never_tried() -> None:
    """Of eight choices of two values 256 combinations can be made; 24 of them tell which is the best."""
    rng = np.random.default_rng(0)
    every = np.array(list(itertools.product([0.0, 1.0], repeat=8)))
    gains = np.array([0.5, -1, 0.3, 0.8, -0.2, 0.6, -0.7, 0.4])
    tried = every[rng.choice(len(every), 24, replace=False)]
    means, _ = Surrogate(tried, at_the_end(tried @ gains + 0.05 * rng.normal(size=24))).at(every)
    assert (every[means.argmax()] == (gains > 0)).all()


def misled(count: int, rng: Any) -> tuple[Any, Any]:
    """Points, and values at two looks. A high first coordinate helps at first and harms later; half of the
    trials go on, whatever they are worth."""
    points = rng.random((count, 2))
    early = points[:, 0] + points[:, 1] + 0.02 * rng.normal(size=count)
    late = early - 2.5 * points[:, 0] + 0.02 * rng.normal(size=count)
    late[rng.random(count) < 0.5] = np.nan
    return points, np.column_stack([early, late])


def test_what_early_values_hide_is_told_by_the_trials_that_went_on() -> None:
    rng = np.random.default_rng(0)
    points, values = misled(60, rng)
    model, others = Surrogate(points, values), rng.random((200, 2))
    truth = others[:, 1] - 1.5 * others[:, 0]
    assert np.corrcoef(model.at(others)[0], truth)[0, 1] > 0.98
    waiting = np.isnan(values[:, 1])
    ends = points[:, 1] - 1.5 * points[:, 0]
    assert np.corrcoef(model.ends_N[waiting], ends[waiting])[0, 1] > 0.98
    assert np.corrcoef(values[waiting, 0], ends[waiting])[0, 1] < 0.2, "which early values do not"


def test_that_the_good_ones_went_on_bends_nothing() -> None:
    """Late values stand between those of trials that were good early; the rest are carried on likewise."""
    rng = np.random.default_rng(1)
    points = rng.random((80, 2))
    early = points.sum(axis=1) + 0.05 * rng.normal(size=80)
    late = np.where(early > np.quantile(early, 0.6), 2 * early, np.nan)
    model, others = Surrogate(points, np.column_stack([early, late])), rng.random((200, 2))
    assert np.corrcoef(model.at(others)[0], others.sum(axis=1))[0, 1] > 0.97


def test_the_end_is_surer_known_of_points_like_those_that_came_to_it() -> None:
    rng = np.random.default_rng(2)
    points = rng.random((60, 1))
    early = points[:, 0] + 0.02 * rng.normal(size=60)
    late = np.where(points[:, 0] < 0.3, np.sin(8 * points[:, 0]), np.nan)
    _, (known, guessed) = Surrogate(points, np.column_stack([early, late])).at(np.array([[0.15], [0.9]]))
    assert known < guessed / 2


def test_trials_that_told_a_later_look_alone_are_learned_from() -> None:
    """As those of an earlier sweep, of which one value is known."""
    rng = np.random.default_rng(3)
    points, others = rng.random((40, 2)), rng.random((200, 2))
    values = np.column_stack([np.full(40, np.nan), bowl(points)])
    assert np.corrcoef(Surrogate(points, values).at(others)[0], bowl(others))[0, 1] > 0.95
    more = rng.random((20, 2))
    both = np.vstack([values, np.column_stack([bowl(more), np.full(20, np.nan)])])
    model = Surrogate(np.vstack([points, more]), both)
    assert np.corrcoef(model.at(others)[0], bowl(others))[0, 1] > 0.95


@given(
    rows=st.lists(
        st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=3, max_size=3), min_size=1, max_size=14
    )
)
@settings(max_examples=60, deadline=None)
def test_whatever_was_told_there_is_a_number_for_every_point(rows: list[list[float]]) -> None:
    rng = np.random.default_rng(0)
    points = rng.random((len(rows), 2)).round(1)  # some of them twice
    model = Surrogate(points, np.array(rows))
    model.suppose(rng.random((2, 2)))
    means, deviations = model.at(rng.random((5, 2)))
    assert np.isfinite(means).all()
    assert (deviations > 0).all()
    assert np.isfinite(model.ends_N).all()


def test_supposing_a_point_leaves_what_is_expected_and_takes_away_what_it_would_tell() -> None:
    rng = np.random.default_rng(1)
    points = rng.random((12, 2))
    model = Surrogate(points, at_the_end(bowl(points)))
    there = np.array([[0.9, 0.9]])
    before, unsure = model.at(there)
    model.suppose(there)
    after, sure = model.at(there)
    assert after == pytest.approx(before, abs=1e-3)
    assert sure < unsure


def test_supposing_holds_at_every_look() -> None:
    points, values = misled(40, np.random.default_rng(4))
    model, there = Surrogate(points, values), np.array([[0.5, 0.9]])
    before, unsure = model.at(there)
    model.suppose(there)
    after, sure = model.at(there)
    assert after == pytest.approx(before, abs=1e-2)
    assert sure < unsure


def test_how_bad_the_bad_ones_are_says_little_of_the_good_ones() -> None:
    """As where a metric blows up; their order stays."""
    rng = np.random.default_rng(2)
    points = rng.random((60, 1))
    values = np.where(points[:, 0] > 0.8, -1e6 * points[:, 0], bowl(points))
    means, _ = Surrogate(points, at_the_end(values)).at(np.linspace(0, 0.7, 50)[:, None])
    assert abs(np.linspace(0, 0.7, 50)[means.argmax()] - 0.3) < 0.1


def test_one_that_is_far_above_all_others_leaves_what_tells_them_apart() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((40, 2))
    values = 0.5 + 0.01 * (points[:, :1] + [[0.0, 0.1, 0.2]])
    values[4] = 1.0
    model, others = Surrogate(points, values), rng.random((100, 2))
    assert model.ends_N.argmax() == 4
    assert np.corrcoef(model.at(others)[0], others[:, 0])[0, 1] > 0.9


def test_equal_values_everywhere_are_no_error() -> None:
    points = np.random.default_rng(0).random((9, 2))
    means, _ = Surrogate(points, np.ones((9, 2))).at(np.zeros((1, 2)))
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
    early = bowl(points)
    Surrogate(points, np.column_stack([early, early**2 + points[:, 1]]))
    assert len(losses) == 2, "one at each look"
    for loss in losses:
        for _ in range(5):
            logs = rng.normal(size=6) * 0.5
            slope = loss(logs)[1]
            off = check_grad(lambda x, loss=loss: loss(x)[0], lambda x, loss=loss: loss(x)[1], logs)
            assert off < 1e-4 * math.sqrt(float(slope @ slope) + 1)
