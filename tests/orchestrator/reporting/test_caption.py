"""Figures and names in few letters, none of which says what is not so."""

import pytest

from orchestrator.reporting.caption import describe, in_short, short, signs, told_apart
from orchestrator.study.record import TrialRecord


def test_differences_have_four_decimals_or_digits_where_those_would_say_little() -> None:
    assert signs(0.02, -0.00004, 0.04) == ["+0.0200", "-0.0000", "+0.0400"]
    assert signs(-2.34e-6, -4.5678e-6, -1.2e-7) == ["-2.34e-06", "-4.57e-06", "-1.2e-07"]
    assert signs(9.0774257781e10, -1.8248e10, 0.5) == ["+9.077e+10", "-1.825e+10", "+0.5"]
    assert signs(0.0) == ["+0.0000"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9999967304, "0.9999967"),
        (0.99988, "0.99988"),
        (0.9961, "0.9961"),
        (1.0, "1"),
        (0.00123456, "0.001235"),
    ],
)
def test_a_swept_number_is_rounded_but_not_to_one(value: float, text: str) -> None:
    assert in_short(value) == text


def test_marks_of_an_axis_differ_however_near_they_are() -> None:
    assert told_apart(0.95012, 0.95015, 0.95018) == ["0.95012", "0.95015", "0.95018"]
    assert told_apart(0.996, 0.9999) == ["0.996", "0.9999"]
    assert told_apart(1e-4, 1e-3, 1e-2) == ["0.0001", "0.001", "0.01"]


def test_two_keys_of_a_space_never_share_a_name() -> None:
    keys = ["model.depth", "model.predictor.depth", "training.lr"]
    assert [short(key, keys, 1) for key in keys] == ["model.depth", "predictor.depth", "lr"]
    assert [short(key, keys) for key in keys] == ["model.depth", "predictor.depth", "training.lr"]
    trial = TrialRecord(1, "search", {"model.depth": 2, "training.lr": 0.001})
    assert describe(trial, keys) == "model.depth=2  lr=0.001"
    assert describe(trial) == "model.depth=2  training.lr=0.001"
