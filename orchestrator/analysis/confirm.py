"""The search's best against the base, both with fresh seeds that the search has not seen."""

import math
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.analysis.findings import Confirmation, Confirmed, Estimate, Verdict
from orchestrator.analysis.intervals import CONFIDENCE, detectable, interval, mean_is_zero
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord, rank, standing


def confirmation(sweep: Sweep, records: Sequence[TrialRecord]) -> Confirmation | None:
    """What the reruns say; None before the base has been run again."""
    counted = standing(records)
    chosen = {record.confirms for record in counted}
    # A base that was taken up again after its reruns is still the base: by role, not by number.
    base = next((r for r in records if r.role == "base" and r.number in chosen), None)
    if base is None:
        return None
    own = _confirmed(sweep, counted, base)
    ranked = rank(records, sweep.config.objective.metric, sweep.objective_mode)
    places = {record.number: place for place, record in enumerate(ranked)}
    others = [r for r in records if r.number in chosen and r.role != "base"]
    others.sort(key=lambda record: places.get(record.number, len(places)))
    configs = [_against(_confirmed(sweep, counted, record), own) for record in others]
    compared = sum(config.p is not None for config in configs)
    return Confirmation(own, tuple(_judged(c, own, compared, sweep.objective_mode) for c in configs))


def seeds_of(records: Sequence[TrialRecord], of: TrialRecord, metric: str) -> dict[int, float]:
    """The last value of each completed rerun of `of`, by seed: those of the survivors."""
    return {
        record.seed: last[1]
        for record in records
        if record.confirms == of.number and record.seed is not None and record.outcome == "completed"
        if (last := record.last(metric)) is not None
    }


def _confirmed(sweep: Sweep, records: Sequence[TrialRecord], of: TrialRecord) -> Confirmed:
    metric = sweep.config.objective.metric
    values, last = seeds_of(records, of, metric), of.last(metric)
    outcomes = [record.outcome for record in records if record.confirms == of.number]
    mean = math.fsum(values.values()) / len(values) if values else None
    sign = 1 if sweep.objective_mode == "max" else -1
    return Confirmed(
        trial=of.number,
        labels=sweep.labels(of.values),
        search_value=last[1] if last else None,
        asked=sweep.config.confirm.seeds,
        values=values,
        failed=outcomes.count("failed"),
        collapsed=outcomes.count("collapsed"),
        mean=mean,
        interval=interval(list(values.values())) if len(values) > 1 else None,
        shrinkage=sign * (last[1] - mean) if last and mean is not None else None,
        gain=None,
        difference=None,
        together=None,
        p=None,
        p_together=None,
        detectable=None,
        verdict=None,
    )


def differences(own: Confirmed, base: Confirmed) -> list[float]:
    """Own value less the base's, for each seed that both have."""
    return [own.values[seed] - base.values[seed] for seed in sorted(own.values.keys() & base.values.keys())]


def _against(own: Confirmed, base: Confirmed) -> Confirmed:
    pairs = differences(own, base)
    if len(pairs) < 2:
        return replace(own, verdict="too few runs")
    found, gain = interval(pairs), math.fsum(pairs) / len(pairs)
    verdict = "no spread" if found is None else None
    return replace(own, gain=gain, difference=found, p=mean_is_zero(pairs), verdict=verdict)


def _judged(config: Confirmed, base: Confirmed, compared: int, mode: str) -> Confirmed:
    """With what holds of all configs compared at once, and the verdict by it."""
    if config.difference is None or config.p is None:
        return config
    config = replace(
        config,
        together=interval(differences(config, base), compared),
        p_together=min(1.0, compared * config.p),
        detectable=_detectable(config.difference, compared),
    )
    assert config.gain is not None
    gain = config.gain * (1 if mode == "max" else -1)
    return replace(config, verdict=_verdict(config, base, gain) if config.shown else "no difference shown")


def _verdict(config: Confirmed, base: Confirmed, gain: float) -> Verdict:
    """Of a difference that is seen. A run that is lost might have had any value, more likely a bad one: no
    side is said to win by the runs that it did not lose."""
    winner = config if gain > 0 else base
    if winner.lost:
        return "survivors only"
    return "better" if gain > 0 else "worse"


def _detectable(difference: Estimate, compared: int) -> float:
    from scipy import stats

    freedom = difference.count - 1
    half = difference.high - difference.value
    return detectable(half / float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)), freedom, compared)
