"""What is claimed of the configs that are run again with fresh seeds, held against known numbers."""

import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis import analyse
from orchestrator.analysis.confirm import confirmation, seeds_of
from orchestrator.analysis.intervals import detectable, holm, interval, mean_is_zero, power
from orchestrator.reporting import sentences
from orchestrator.reporting.effects import confirmation_table
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord
from tests.synthetic import METRIC


def test_the_interval_is_students() -> None:
    values = [0.81, 0.84, 0.80, 0.86]
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    found = interval(values)
    assert (found.low, found.high) == pytest.approx(expected)


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        interval([0.5])


def test_holm_corrects_as_in_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_power_is_that_of_cohens_tables() -> None:
    # A paired t test of 34 pairs at d = 0.5: 0.8078 by G*Power 3.1.
    assert power(0.5, 1 / math.sqrt(34), 33) == pytest.approx(0.8078, abs=1e-4)
    assert power(detectable(0.3, 5), 0.3 * _widened(5), 5) == pytest.approx(0.8, abs=1e-6)
    assert power(0.0, 0.3, 5) == pytest.approx(0.05)


@pytest.mark.parametrize("pairs", [3, 5, 10])
def test_the_power_that_is_told_is_there_in_80_of_100_sweeps(pairs: int) -> None:
    """By the deviation as it was seen it would be in half of them."""
    runs = np.random.default_rng(0).standard_normal((10_000, pairs))
    error, errors = 1 / math.sqrt(pairs), runs.std(axis=1, ddof=1) / math.sqrt(pairs)
    enough = detectable(error, pairs - 1) / _widened(pairs - 1)
    assert power(enough, error, pairs - 1) == pytest.approx(0.8, abs=1e-6)
    told = detectable(1.0, pairs - 1) * errors  # it is proportional to the error
    assert np.mean(told >= enough) == pytest.approx(0.8, abs=0.01)


def _widened(freedom: int) -> float:
    return math.sqrt(freedom / stats.chi2.ppf(0.2, freedom))


def test_only_completed_reruns_of_the_trial_count() -> None:
    of = TrialRecord(0, "search", {}, outcome="completed", reports={3: {"m": 0.9}})
    again = TrialRecord(1, "confirm", {}, 0, 43, reports={3: {"m": 0.7}}, outcome="completed")
    failed = TrialRecord(2, "confirm", {}, 0, 44, reports={1: {"m": 0.2}}, outcome="failed")
    other = TrialRecord(3, "confirm", {}, 5, 43, reports={3: {"m": 0.1}}, outcome="completed")
    assert seeds_of([of, again, failed, other], of, "m") == {43: 0.7}


def _confirmed(base: list[float], *others: list[float]) -> list[TrialRecord]:
    """The base and others with a figure of 0.9 each, and their reruns; nan: it failed; inf: it collapsed."""
    found = []
    for number, values in enumerate([base, *others]):
        role = "search" if number else "base"
        found.append(TrialRecord(number, role, {}, reports={9: {METRIC: 0.9}}, outcome="completed"))
        for seed, value in enumerate(values):
            reports, outcome = {9: {METRIC: value}}, "completed"
            if not math.isfinite(value):
                reports, outcome = {}, "failed" if math.isnan(value) else "collapsed"
            found.append(
                TrialRecord(
                    100 * (number + 1) + seed, "confirm", {}, number, seed, reports=reports, outcome=outcome
                )
            )
    return found


def test_winners_are_named_after_correction_and_the_rest_told_what_could_hide(sweep: Sweep) -> None:
    base, good, same = [0.50, 0.52, 0.51, 0.49], [0.60, 0.63, 0.61, 0.58], [0.52, 0.50, 0.51, 0.50]
    found = confirmation(sweep, _confirmed(base, good, same))
    assert found is not None
    first, second = found.configs
    expected = stats.ttest_rel(good, base).pvalue
    assert (first.p, first.p_together) == (pytest.approx(expected), pytest.approx(2 * expected))
    assert (first.verdict, second.verdict) == ("better", "no difference shown")
    assert first.shrinkage == pytest.approx(0.9 - np.mean(good))
    assert second.detectable is not None
    assert second.difference is not None
    assert second.detectable > second.difference.high - second.difference.value


def test_finalists_stand_in_the_order_of_the_search(sweep: Sweep) -> None:
    records = _confirmed([0.5, 0.51], [0.6, 0.61], [0.7, 0.71], [0.8, 0.81])
    for record, value in zip((r for r in records if r.role == "search"), (0.91, 0.93, 0.92), strict=True):
        record.reports[9][METRIC] = value
    found = confirmation(sweep, records)
    assert found is not None
    assert [config.trial for config in found.configs] == [2, 3, 1]


@pytest.mark.parametrize("seed", range(20))
def test_words_interval_p_and_verdict_of_a_finalist_agree(sweep: Sweep, seed: int) -> None:
    rng = np.random.default_rng(seed)
    runs = [(gain + 0.01 * rng.standard_normal(4)).tolist() for gain in (0.5, 0.505, 0.515, 0.53)]
    findings = analyse(sweep, _confirmed(*runs), with_importances=False)
    assert findings.confirmation is not None
    for config in findings.confirmation.configs:
        assert config.together is not None
        assert config.p_together is not None
        outside = not config.together.low <= 0 <= config.together.high
        assert (config.p_together <= 0.05) == outside == (config.verdict != "no difference shown")
        (said,) = (line for line in sentences.verdicts(findings, 3) if f"rial {config.trial:04d}" in line)
        assert said.startswith("No difference") != outside
        assert f"({config.together.low:+.4f}"[1:] in said
        assert "both corrected for 3 compared" in said


def test_a_finalist_that_is_sure_by_itself_only_is_told_by_the_wider_interval(sweep: Sweep) -> None:
    findings = analyse(sweep, _confirmed([0.5] * 3, [0.512, 0.508, 0.515], [0.50, 0.505, 0.49]))
    assert findings.confirmation is not None
    first = findings.confirmation.configs[0]
    assert first.difference is not None
    assert first.together is not None
    assert first.p is not None
    assert first.difference.low > 0 > first.together.low
    assert first.p_together == pytest.approx(2 * first.p)
    assert "(95% interval -0.0009 to +0.0242), p = 0.058" in sentences.verdicts(findings, 2)[0]
    assert list(confirmation_table(findings).rows[1][7:10]) == [
        "-0.0009 to +0.0242",
        "+0.0029 to +0.0204",
        "0.058",
    ]


def test_reruns_that_are_lost_are_counted_and_never_compared(sweep: Sweep) -> None:
    nan = math.nan
    found = confirmation(sweep, _confirmed([0.5, 0.5, nan], [0.6, nan, 0.6], [0.6, 0.6, 0.6]))
    assert found is not None
    one_pair, no_spread = found.configs
    assert (one_pair.verdict, one_pair.failed, one_pair.difference) == ("too few runs", 1, None)
    assert (no_spread.gain, no_spread.difference) == (pytest.approx(0.1), None)
    assert (no_spread.p, no_spread.verdict) == (None, "no spread")
    assert confirmation(sweep, _confirmed([nan, nan], [0.5, 0.6])).base.mean is None


def test_values_without_spread_have_neither_interval_nor_p(sweep: Sweep) -> None:
    same = [0.6 - 0.5, 0.4 - 0.3]  # the same but for what floats leave
    assert (interval(same), mean_is_zero(same)) == (None, None)
    findings = analyse(sweep, _confirmed([0.5, 0.52], [0.6, 0.62], [0.6, 0.7]))
    first, second = findings.confirmation.configs
    assert (first.verdict, first.p_together) == ("no spread", None)
    assert second.p_together == second.p  # one alone is tested
    assert "neither interval nor p" in sentences.verdicts(findings, 2)[0]
    table = confirmation_table(findings)
    assert "lost" not in table.columns
    assert table.rows[1][table.columns.index("difference")] == "+0.1000"


def test_no_side_wins_by_the_runs_that_it_did_not_lose(sweep: Sweep) -> None:
    inf, base = math.inf, [0.50, 0.52, 0.51, 0.49, 0.50]
    good, bad = [0.60, 0.63, 0.61, inf, inf], [0.40, 0.43, 0.41, inf, 0.40]
    found = confirmation(sweep, _confirmed(base, good, bad, [0.6, 0.63, 0.61, 0.59, 0.61]))
    assert found is not None
    assert [config.verdict for config in found.configs] == ["survivors only", "worse", "better"]
    assert (found.configs[0].collapsed, found.configs[0].p_together < 0.05) == (2, True)
    other = confirmation(sweep, _confirmed([*base[:4], inf], [0.4, 0.43, 0.41, 0.40, 0.41]))
    assert other is not None
    assert other.configs[0].verdict == "survivors only"


def test_lost_reruns_are_counted_in_every_sentence_and_table(sweep: Sweep) -> None:
    inf, nan = math.inf, math.nan
    records = _confirmed([0.5, 0.52, 0.51, 0.49, 0.5], [0.6, 0.63, 0.61, inf, inf], [0.6, nan, inf, inf, inf])
    findings = analyse(sweep, records, with_importances=False)
    told = "\n".join(sentences.verdicts(findings, 2))
    assert "No difference between trial 0001 and the base config is confirmed" in told
    assert "2 of 5 collapsed" in told
    assert "1 of 5 failed, 3 of 5 collapsed" in told
    table = confirmation_table(findings)
    assert [row[1] for row in table.rows] == ["-", "survivors only", "too few runs"]
    assert [row[table.columns.index("lost")] for row in table.rows] == [
        "-",
        "2 of 5 collapsed",
        "1 of 5 failed, 3 of 5 collapsed",
    ]


def test_intervals_over_seeds_are_said_to_be_on_one_set_of_images(sweep: Sweep) -> None:
    findings = analyse(sweep, _confirmed([0.5, 0.52], [0.6, 0.63]), with_importances=False)
    assert "on one set of validation images" in sentences.verdicts(findings, 1)[-1]
    assert "on one set of validation images" in confirmation_table(findings).note
