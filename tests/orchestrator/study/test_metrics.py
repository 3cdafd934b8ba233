"""The metrics of a report: a mapping that is as good as a dict, and smaller."""

import copy
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.study.metrics import Metrics

SOME = {"val/knn_top1": 0.5, "train/loss": 2.0, "time/epoch_s": math.inf}


@given(st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False)))
def test_metrics_hold_what_the_dict_held_in_its_order(values: dict[str, float]) -> None:
    metrics = Metrics(values)
    assert list(metrics.items()) == list(values.items())
    assert metrics == values == metrics
    assert all(name in metrics for name in values)
    assert "none of them" not in metrics
    assert metrics.get("none of them", 3.0) == 3.0


def test_metrics_that_hold_nan_are_like_their_copies_and_unlike_others() -> None:
    metrics = Metrics(SOME | {"train/grad_norm": math.nan})
    assert metrics == Metrics(dict(metrics)) == copy.deepcopy(metrics)
    assert metrics != Metrics(SOME)
    assert metrics != Metrics(SOME | {"train/grad_norm": 1.0})


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError):
        Metrics({"train/loss": "low"})  # pyright: ignore[reportArgumentType]


def test_reports_with_the_same_names_share_them() -> None:
    values = {f"metric {number}": number / 7 for number in range(20)}
    one, other = Metrics(values), Metrics({str(name): value for name, value in values.items()})
    assert one._places is other._places
    own = sys.getsizeof(one) + sys.getsizeof(one._values)
    alone = sys.getsizeof(values) + sum(map(sys.getsizeof, values.values()))
    assert own < alone / 3
