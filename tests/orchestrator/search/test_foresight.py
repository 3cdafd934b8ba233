"""What trials would have come to, told from the others."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.search.foresight import at_looks, foreseen_ends

LOOKS = [1, 3, 9]
VALUES = st.floats(-1e3, 1e3)


def foreseen(curves: Sequence[Mapping[int, float]], looks: Sequence[int]) -> Any:
    values = [at_looks(curve, looks) for curve in curves]
    return foreseen_ends(np.array(values).reshape(len(curves), len(looks)))


def line(x: Any) -> Any:
    return 0.2 + 0.5 * x


def test_who_has_been_at_the_end_is_worth_what_it_reported():
    ends = foreseen([{1: 0.9, 3: 0.1, 9: 0.3}, {1: 0.1, 2: 0.7}, {}, {2: 0.5}], LOOKS)
    assert ends[0] == 0.3
    assert np.isnan(ends[2:]).all(), "an epoch that is no look tells nothing"


def test_a_value_is_carried_on_along_the_line_through_those_that_went_on():
    """With many of them; the weight of what is supposed beforehand is that of two."""
    starts = np.linspace(0, 1, 2000)
    ends = foreseen([{1: x, 3: line(x), 9: line(line(x))} for x in starts] + [{1: 0.6}, {3: 0.6}], LOOKS)
    assert ends[-2] == pytest.approx(line(line(0.6)), abs=1e-3)
    assert ends[-1] == pytest.approx(line(0.6), abs=1e-3)


def test_selection_at_a_look_does_not_bend_the_line():
    draws = np.random.default_rng(0)
    starts = draws.uniform(size=4000)
    after = line(starts) + draws.normal(scale=0.02, size=len(starts))
    curves = [{1: x, 3: y} if x > 0.7 else {1: x} for x, y in zip(starts, after, strict=True)]
    ends = foreseen([*curves, {1: 0.2}], [1, 3])
    assert ends[-1] == pytest.approx(line(0.2), abs=0.02)


def test_where_a_look_tells_nothing_all_that_are_there_are_alike():
    """Late bloomers are then no worse than others, where by their value there they would be the last."""
    draws = np.random.default_rng(0)
    curves = [{1: x, 3: y} for x, y in draws.uniform(size=(1000, 2))]
    low, high = foreseen([*curves, {1: 0.0}, {1: 1.0}], [1, 3])[-2:]
    assert abs(high - low) < 0.1
    assert low == pytest.approx(0.5, abs=0.05)


def test_without_any_that_went_on_a_value_stays_as_it_is():
    ends = foreseen([{1: 0.25}, {1: 0.5}], LOOKS)
    assert ends.tolist() == [0.25, 0.5]


def test_two_pairs_by_chance_do_not_turn_an_order_round():
    ends = foreseen([{1: 0.4, 3: 0.6}, {1: 0.6, 3: 0.5}, {1: 0.1}, {1: 0.9}], [1, 3])
    assert ends[2] < ends[3]


@given(st.lists(st.dictionaries(st.sampled_from([1, 2, 3, 9]), VALUES), max_size=12))
def test_whatever_was_reported_who_was_at_a_look_has_an_end(curves: list[dict[int, float]]):
    ends = foreseen(curves, LOOKS)
    assert [bool(np.isfinite(end)) for end in ends] == [bool(curve.keys() & {1, 3, 9}) for curve in curves]


@given(st.lists(st.dictionaries(st.sampled_from([1, 3, 9]), VALUES), min_size=1, max_size=12), VALUES)
def test_what_is_added_to_all_values_is_added_to_all_ends(curves: list[dict[int, float]], more: float):
    ends = foreseen(curves, LOOKS)
    raised = foreseen([{epoch: value + more for epoch, value in c.items()} for c in curves], LOOKS)
    scale = 1 + np.nanmax(np.abs(ends), initial=0.0) + abs(more)
    np.testing.assert_allclose(raised / scale, (ends + more) / scale, atol=1e-5)
