import numpy as np
import pytest
from scipy import stats

from orchestrator.report import interval, seeds_of
from orchestrator.study import TrialRecord


def test_the_interval_is_students() -> None:
    values = [0.81, 0.84, 0.80, 0.86]
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    found = interval(values)
    assert (found.low, found.high) == pytest.approx(expected)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    hits = [
        abs(found.mean) <= found.half_width for found in map(interval, rng.normal(size=(4000, 3)).tolist())
    ]
    assert np.mean(hits) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 4000))


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        interval([0.5])


def test_only_completed_reruns_of_the_trial_count() -> None:
    of = TrialRecord(0, "search", {}, outcome="completed", reports={3: {"m": 0.9}})
    again = TrialRecord(1, "confirm", {}, 0, 43, reports={3: {"m": 0.7}}, outcome="completed")
    failed = TrialRecord(2, "confirm", {}, 0, 44, reports={1: {"m": 0.2}}, outcome="failed")
    other = TrialRecord(3, "confirm", {}, 5, 43, reports={3: {"m": 0.1}}, outcome="completed")
    assert seeds_of([of, again, failed, other], of, "m") == {43: 0.7}
