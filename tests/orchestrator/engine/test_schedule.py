from collections import Counter
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.search.halving import Asha, Pasha, audited, first_rung


def asha(values: list[float], mode: str = "max", factor: int = 3) -> list[bool]:
    """Whether each of trials 0, 1, ... that reach the rung in this order goes on."""
    rungs = Asha([1], factor, "max" if mode == "max" else "min")
    answers = []
    for trial, value in enumerate(values):
        rungs.record(trial, 1, value)
        answers.append(rungs.goes_on(trial, 1))
    return answers


def test_the_first_at_a_rung_goes_on_and_a_worse_second_does_not() -> None:
    assert asha([0.5, 0.4]) == [True, False]


def test_one_in_reduction_factor_goes_on() -> None:
    assert asha([0.9, 0.8, 0.7, 0.6, 0.5, 0.85]) == [True, False, False, False, False, True]


def test_mode_min_prefers_less() -> None:
    assert asha([0.5, 0.6, 0.4], mode="min") == [True, False, True]


def test_a_tie_with_the_best_goes_on() -> None:
    assert asha([0.5, 0.5]) == [True, True]


def test_epochs_between_rungs_stop_nobody() -> None:
    rungs = Asha([3, 9], 3, "max")
    rungs.record(0, 3, 0.9)
    rungs.record(1, 2, 0.1)
    assert rungs.goes_on(1, 2)


def test_a_trial_without_a_value_at_a_rung_goes_on() -> None:
    rungs = Asha([1], 3, "max")
    rungs.record(0, 1, 0.9)
    assert rungs.goes_on(1, 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(2, 4))
def test_rungs_filled_again_from_the_record_decide_as_before(values: list[float], factor: int) -> None:
    first, again = Asha([1], factor, "max"), Asha([1], factor, "max")
    for trial, value in enumerate(values):
        first.record(trial, 1, value)
    for trial, value in reversed(list(enumerate(values))):
        again.record(trial, 1, value)
    assert [first.goes_on(t, 1) for t in range(len(values))] == [
        again.goes_on(t, 1) for t in range(len(values))
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30, unique=True))
def test_the_best_so_far_always_goes_on(values: list[float]) -> None:
    best = -1.0
    for goes_on, value in zip(asha(values), values, strict=True):
        if value > best:
            assert goes_on
            best = value


def open_after(curves: list[list[float]], mode: Literal["min", "max"] = "max") -> list[int]:
    """Rungs from which trials go on, once trials 0, 1, ... have reported these values at epochs 1, 2, 3."""
    rungs = Pasha([1, 3, 9], 3, mode)
    for trial, curve in enumerate(curves):
        for epoch, value in enumerate(curve, start=1):
            rungs.record(trial, epoch, value)
    return rungs.open_rungs()


def test_the_budget_stays_where_the_two_highest_rungs_order_alike() -> None:
    assert open_after([[0.1, 0.2, 0.3], [0.2, 0.3, 0.4], [0.3, 0.4, 0.5]]) == [1]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_budget_grows_where_the_order_has_changed(mode: Literal["min", "max"]) -> None:
    assert open_after([[0.1, 0.2, 0.5], [0.2, 0.3, 0.4]], mode) == [1, 3]


@pytest.mark.parametrize("epochs", [[], [3]])
def test_where_there_is_no_second_rung_no_budget_grows(epochs: list[int]) -> None:
    rungs = Pasha(epochs, 3, "max")
    for trial in range(4):
        for epoch in (1, 2, 3):
            rungs.record(trial, epoch, trial + epoch)
    assert rungs.open_rungs() == epochs
    assert [rungs.goes_on(trial, 3) for trial in range(4)] == ([False] * 3 + [True] if epochs else [True] * 4)


def test_trials_that_overtake_to_and_fro_may_stand_in_any_order() -> None:
    to_and_fro = [[0.5, 0.7, 0.61], [0.4, 0.8, 0.6]]
    assert open_after(to_and_fro) == [1]
    rungs = [[0.5, 0.7, 0.60], [0.4, 0.8, 0.61]]  # crossed once
    assert open_after(rungs) == [1, 3]
    crossed_twice = [[0.50, 0.40, 0.60], [0.45, 0.45, 0.59]]
    noisy = [[0.2, 0.3, 0.300], [0.1, 0.2, 0.305]]  # no further apart than the two before
    assert open_after([*crossed_twice, *noisy]) == [1]


def test_rank_is_said_in_words() -> None:
    rungs = Asha([3], 3, "max")
    for trial, value in enumerate([0.1, 0.3, 0.2]):
        rungs.record(trial, 3, value)
    assert rungs.rank(2, 3) == "place 2 of 3 at epoch 3"


def test_an_unknown_rung_is_no_rung() -> None:
    with pytest.raises(KeyError):
        Asha([3], 3, "max").rank(0, 1)


def test_the_audited_are_the_asked_share_and_the_same_ones_each_time() -> None:
    chosen = [number for number in range(4000) if audited(7, 0.05, number)]
    assert 150 < len(chosen) < 250
    assert chosen == [number for number in reversed(range(4000)) if audited(7, 0.05, number)][::-1]
    assert chosen != [number for number in range(4000) if audited(8, 0.05, number)]


def test_a_greater_share_audits_the_same_trials_and_more() -> None:
    few, many, all_of_them = ({n for n in range(200) if audited(0, share, n)} for share in (0.1, 0.5, 1.0))
    assert few < many < all_of_them == set(range(200))
    assert not any(audited(0, 0.0, number) for number in range(200))


def test_each_bracket_gets_as_many_epochs_as_hyperband_gives_it() -> None:
    """With rungs at 1, 3 and 9 of 27: of 27/4, 9/3 and 3/2 parts."""
    drawn = Counter(
        first_rung(seed=0, number=n, rungs=3, brackets=3, reduction_factor=3) for n in range(20_000)
    )
    whole = 27 / 4 + 9 / 3 + 3 / 2
    assert [drawn[rung] / 20_000 for rung in range(3)] == pytest.approx(
        [27 / 4 / whole, 9 / 3 / whole, 3 / 2 / whole], abs=0.02
    )


def test_fewer_brackets_begin_at_the_first_rung_and_one_is_all_of_it() -> None:
    assert {first_rung(0, n, rungs=3, brackets=2, reduction_factor=3) for n in range(200)} == {0, 1}
    assert {first_rung(0, n, rungs=3, brackets=1, reduction_factor=3) for n in range(200)} == {0}


def test_a_bracket_depends_on_seed_and_number_alone() -> None:
    drawn = [[first_rung(seed, n, 3, 3, 3) for n in range(50)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
