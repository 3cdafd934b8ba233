"""What is claimed of keys and early stopping, held against known numbers and sweeps whose truth is known."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy import stats

from orchestrator.analysis import analyse
from orchestrator.analysis.design import design_of
from orchestrator.analysis.effects import effects
from orchestrator.analysis.findings import Effects, Estimate, Findings, Stopping
from orchestrator.analysis.interactions import interactions
from orchestrator.analysis.intervals import power
from orchestrator.analysis.model import fit_effects
from orchestrator.analysis.stopping import spearman
from orchestrator.analysis.table import table_of
from orchestrator.reporting import sentences, terminal
from orchestrator.reporting.effects import confirmation_table, effects_table
from orchestrator.reporting.effects import effects as drawn_effects
from orchestrator.reporting.style import BEST, styled
from orchestrator.reporting.terminal import SweepResult
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord
from tests.synthetic import KEYS, METRIC, Truth, drawn, growth, seeded, simulated, synthetic_sweep


def test_no_effect_is_shown_of_values_that_are_all_the_same(many_keys: Sweep) -> None:
    records = drawn(np.random.default_rng(0), 40, gain=0.0)
    found = _effects(many_keys, [replace(r, reports={2: {METRIC: 0.9371}}) for r in records])
    assert not any(effect.shown for effect in found.keys)
    assert found.note.startswith("No effects")


def test_why_there_are_no_effects_is_said(many_keys: Sweep) -> None:
    trials = [replace(trial, reports={2: {METRIC: 0.5}}) for trial in drawn(np.random.default_rng(0), 40, 0)]
    why = [_effects(many_keys, some).note for some in (trials, trials[:1], [])]
    assert "all 40 trials have the same value" in why[0]
    assert "no two values of a key were tried" in why[1]
    assert "no two values of a key were tried" in why[2]
    assert sentences.straight_lines(_effects(many_keys, trials)) == ""


def test_no_interaction_is_told_of_values_that_are_all_the_same(many_keys: Sweep) -> None:
    records = drawn(np.random.default_rng(0), 60, gain=0.0)
    table = table_of(many_keys, [replace(r, reports={2: {METRIC: 0.9371}}) for r in records])
    assert interactions(table, design_of(many_keys, table.records)) == ()


def test_without_early_stopping_the_intervals_are_those_of_least_squares(tmp_path: Path) -> None:
    sweep = synthetic_sweep(tmp_path, scheduler={"type": "fifo", "max_epochs": 2}, confirm={"top_k": 0})
    table = table_of(sweep, simulated(sweep, Truth()))
    columns = design_of(sweep, table.records).columns_NP
    fit = fit_effects(table, columns)
    matrix = np.column_stack([np.ones(len(columns)), columns])
    inverse = np.linalg.inv(matrix.T @ matrix)
    centre = inverse @ matrix.T @ table.values_NS[:, 0]
    freedom = len(matrix) - matrix.shape[1]
    spread = np.sum((table.values_NS[:, 0] - matrix @ centre) ** 2) / freedom
    assert fit is not None
    assert fit.freedom == freedom
    for index in range(columns.shape[1]):
        half = stats.t.ppf(0.975, freedom) * math.sqrt(spread * inverse[index + 1, index + 1])
        middle, low, high = fit.spread(np.eye(columns.shape[1])[index])
        assert middle == pytest.approx(centre[index + 1], abs=0.05 * half)
        assert (high - low) / 2 == pytest.approx(half, rel=0.06)


def test_findings_are_plain_data_of_any_records(sweep: Sweep, tmp_path: Path) -> None:
    records = simulated(sweep, Truth())
    for share in (0, 1, 20):
        found = analyse(sweep, records[:share])
        assert json.loads(json.dumps(asdict(found)))["outcomes"] == found.outcomes
    whole = analyse(sweep, records)
    assert whole == analyse(sweep, records)
    assert whole.importances is not None
    assert whole.importances.keys[0].key == "training.lr"
    assert whole.stopping is not None
    assert whole.stopping.regret is not None


def test_a_collapsed_trial_counts_with_what_it_had_and_a_failed_one_not_at_all(
    sweep: Sweep, tmp_path: Path
) -> None:
    records = simulated(replace_confirm(sweep), Truth())
    pruned = [record for record in records if record.outcome == "pruned"]
    pruned[0].outcome, pruned[1].outcome = "collapsed", "failed"
    table = table_of(sweep, records)
    assert len(table.records) == len(records) - 1
    row = table.values_NS[table.records.index(pruned[0])]
    assert row[-1] == pruned[0].last(METRIC)[1]


def replace_confirm(sweep: Sweep) -> Sweep:
    """The sweep without its confirmation."""
    confirm = sweep.config.confirm.model_copy(update={"top_k": 0})
    return replace(sweep, config=sweep.config.model_copy(update={"confirm": confirm}))


def _at(sweep: Sweep, values: Sequence[float], gains: Sequence[float]) -> list[TrialRecord]:
    """Completed trials of learning rates alone, with the objective that each has."""
    return [
        TrialRecord(n, "search", {"training.lr": lr}, reports={2: {METRIC: gain}}, outcome="completed")
        for n, (lr, gain) in enumerate(zip(values, gains, strict=True))
    ]


def _effects(sweep: Sweep, records: list[TrialRecord]) -> Effects:
    """The effects alone, which take a hundredth of the time of all findings."""
    table = table_of(sweep, records)
    return effects(table, design_of(sweep, table.records))


def analyse_effects(sweep: Sweep, records: list[TrialRecord]) -> Findings:
    """Findings of the effects and of nothing else."""
    found = _effects(sweep, records)
    return Findings(METRIC, "max", sweep.max_epochs, {}, None, found, (), None, None)


@pytest.fixture(scope="module")
def lr_sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep of the learning rate, without rungs."""
    return synthetic_sweep(
        tmp_path_factory.mktemp("lr"),
        space={"training.lr": {"loguniform": [1e-4, 1e-2]}},
        scheduler={"type": "fifo", "max_epochs": 2},
        confirm={"top_k": 0},
    )


@pytest.mark.parametrize(("told_by", "epoch"), [(1, 1), (4, 2)])
def test_where_one_trial_alone_tells_a_coefficient_the_effects_are_those_before(
    tmp_path: Path, told_by: int, epoch: int
) -> None:
    """All that it has by chance, and what no line tells, would be the effect of its value."""
    asha = {"type": "asha", "max_epochs": 2, "grace_epochs": 1, "reduction_factor": 3}
    sweep = synthetic_sweep(tmp_path, space=KEYS, scheduler=asha, confirm={"top_k": 0})
    rng = np.random.default_rng(0)
    records = drawn(rng, 40, gain=0.02)
    for record in records:
        record.reports[1] = {METRIC: record.reports[2][METRIC] + 0.005 * rng.standard_normal()}
    cosine = [record for record in records if record.values["loss.type"] == "cosine"]
    cosine[0].reports[2][METRIC] -= 0.3
    for record in cosine[told_by:]:
        del record.reports[2]
    effects = _effects(sweep, records)
    assert effects.epoch == epoch
    if told_by == 1:
        (loss,) = [effect for effect in effects.keys if effect.key == "loss.type"]
        (level,) = [level.effect for level in loss.levels if level.label == "cosine"]
        assert level is not None
        assert abs(level.value - 0.02) < 0.02
        assert "too few, or too alike" in effects.note


def test_a_best_value_in_the_middle_shows_in_a_sweep_of_a_dozen_trials(lr_sweep: Sweep) -> None:
    """A hump, symmetric about the middle: a straight line sees nothing of it. The bent line's intervals hold
    the truth as often as they say, few trials as there are."""
    shown, hits = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        lrs = 10 ** rng.uniform(-4, -2, 12)
        gains = 0.6 - 0.05 * (np.log10(lrs) + 3) ** 2 + 0.01 * rng.standard_normal(12)
        (effect,) = _effects(lr_sweep, _at(lr_sweep, lrs.tolist(), gains.tolist())).keys
        assert not effect.straight
        shown.append(effect.p is not None and effect.p <= 0.05)
        for level in effect.levels:
            if level.effect is not None:
                truth = -0.05 * (math.log10(float(level.label)) + 3) ** 2
                hits.append(level.effect.low <= truth <= level.effect.high)
    assert np.mean(shown) > 0.7
    assert 0.93 <= np.mean(hits) <= 0.97


@pytest.mark.slow
def test_the_largest_effects_interval_holds_the_truth_though_it_was_picked_for_its_size(
    many_keys: Sweep,
) -> None:
    together, alone, all_hold = [], [], []
    for seed in range(300):
        records = drawn(np.random.default_rng(seed), 40, gain=0.0)
        levels = [level for effect in _effects(many_keys, records).keys for level in effect.levels]
        known = [(level.effect, level.together) for level in levels if level.effect and level.together]
        own, wide = max(known, key=lambda pair: abs(pair[1].value))
        alone.append(own.low <= 0 <= own.high)
        together.append(wide.low <= 0 <= wide.high)
        all_hold.append(all(e.low <= 0 <= e.high for _, e in known))
    assert np.mean(alone) < 0.85
    # Two standard deviations of 300.
    assert np.mean(all_hold) == pytest.approx(0.95, abs=2 * math.sqrt(0.95 * 0.05 / 300))
    assert np.mean(together) >= np.mean(all_hold)


@pytest.mark.parametrize("gain", [0.0, 0.011, 0.05])
def test_words_p_intervals_and_colours_call_the_same_effects_real(many_keys: Sweep, gain: float) -> None:
    for seed in range(5):
        findings = analyse_effects(many_keys, drawn(np.random.default_rng(seed), 40, gain))
        for effect in findings.effects.keys:
            assert effect.shown == any(level.shown for level in effect.levels)
            (line,) = [s for s in sentences.effects(findings) if s.startswith(f"  {effect.key} against")]
            assert effect.shown != ("not shown" in line)
        shown = sum(level.shown for effect in findings.effects.keys for level in effect.levels)
        with styled():
            figure = drawn_effects(findings)
        assert figure is not None
        colours = [to_hex(c) for lines in figure.axes[0].collections for c in lines.get_colors()]
        assert colours.count(BEST) == 2 * shown  # a thin and a thick line of each


def test_effects_are_said_to_be_of_the_one_seed_that_all_trials_share(many_keys: Sweep) -> None:
    records = drawn(np.random.default_rng(0), 40, gain=0.05)
    findings = analyse_effects(many_keys, records)
    assert "at training seed 42 only" in sentences.effects(findings)[0]
    assert "at training seed 42 only" in effects_table(findings).note
    found = replace(findings, effects=replace(findings.effects, seed=None))
    assert "seed" not in "".join(sentences.effects(found))


def test_a_swept_seed_is_no_shared_one(tmp_path: Path) -> None:
    space = {"seed": {"choice": [1, 2, 3]}, "loss.type": {"choice": ["mse", "cosine"]}}
    assert _effects(synthetic_sweep(tmp_path, space=space), []).seed is None


def test_of_a_metric_that_is_minimised_nothing_is_said_to_be_high(many_keys: Sweep) -> None:
    findings = replace(analyse_effects(many_keys, drawn(np.random.default_rng(0), 40, 0.05)), mode="min")
    told = (sentences.effects(findings)[0], effects_table(findings).note, confirmation_table(findings).note)
    assert all(f"{METRIC} (less is better)" in words for words in told)
    with styled():
        figure = drawn_effects(findings)
    assert figure is not None
    assert figure.axes[0].get_xlabel().endswith("(less is better)")


def test_what_stopping_cost_is_told_from_eight_trials_that_ran_to_the_end(sweep: Sweep) -> None:
    records = simulated(sweep, Truth())
    ended = [record for record in records if record.outcome == "completed" and record.role == "search"]
    others = [record for record in records if record.outcome == "pruned"]
    for count, told in ((7, False), (8, True)):
        found = analyse(sweep, [*others, *ended[:count]], with_importances=False)
        assert found.stopping is not None
        assert (found.stopping.regret is not None) == told
        assert any("Too few went on" in line for line in sentences.stopping(found)) != told


def test_one_is_one_and_the_regret_is_explained() -> None:
    regret = Estimate(0.01, 0.0, 0.02, 1)
    effects = Effects(1, 42, 1, 1, {1: 1}, (), None, (), "")
    told = Findings("m", "min", 9, {}, None, effects, (), None, Stopping((), 1, 1, 0, 0, regret))
    assert sentences.stopping(told) == [
        "1 trial was stopped early and 1 ran to the end. What that may have cost, the regret: had none been "
        "stopped, the best of them would have been better than the best found by 0.0100 (95% interval "
        "0.0000 to 0.0200), as far as 1 trial that ran to the end can tell."
    ]


def test_too_few_trials_are_a_straight_line_and_said_to_be_one(lr_sweep: Sweep) -> None:
    lrs = np.geomspace(1e-4, 1e-2, 8)
    noise = 0.001 * np.random.default_rng(0).standard_normal(8)
    records = _at(lr_sweep, lrs.tolist(), (0.5 + 0.02 * np.log10(lrs) + noise).tolist())
    (effect,) = analyse(lr_sweep, records).effects.keys
    assert effect.straight
    assert "straight line" in effect.note
    said = terminal.summary(SweepResult(Path("s"), records, records[-1], None, 0), lr_sweep, "http://m")
    assert "straight line" in said
    assert "straight line" in effects_table(analyse(lr_sweep, records)).note


def test_a_range_of_two_values_is_a_line_through_them(tmp_path: Path) -> None:
    sweep = synthetic_sweep(
        tmp_path,
        space={"training.lr": {"quniform": [1e-3, 2e-3, 1e-3]}},
        scheduler={"type": "fifo", "max_epochs": 2},
        confirm={"top_k": 0},
    )
    gains = 0.5 + 0.01 * np.random.default_rng(0).standard_normal(20)
    (effect,) = analyse(sweep, _at(sweep, [1e-3, 2e-3] * 10, gains.tolist())).effects.keys
    assert effect.trend is not None


def test_a_range_of_one_value_has_no_effect(tmp_path: Path) -> None:
    keys = {"model.depth": {"randint": [2, 3]}, "loss.type": {"choice": ["mse", "cosine"]}}
    sweep = synthetic_sweep(tmp_path, space=keys, scheduler={"type": "fifo", "max_epochs": 2})
    rng, records = np.random.default_rng(0), []
    for number in range(12):
        values = {"model.depth": 2, "loss.type": ["mse", "cosine"][number % 2]}
        reports = {2: {METRIC: 0.5 + 0.1 * (number % 2) + 0.01 * float(rng.standard_normal())}}
        records.append(TrialRecord(number, "search", values, reports=reports, outcome="completed"))
    depth, loss = analyse(sweep, records, with_importances=False).effects.keys
    assert "no two values were tried" in depth.note
    assert loss.shown


@pytest.mark.parametrize(
    ("values", "told"),
    [([1, 4], ["1", "2", "3"]), ([2, 7], ["2", "3", "4", "5", "6"]), ([1, 9], ["1", "3", "4", "6"])],
)
def test_each_value_of_a_short_range_is_told_by_the_trials_that_had_it(
    tmp_path: Path, values: list[int], told: list[str]
) -> None:
    sweep = synthetic_sweep(tmp_path, space={"model.depth": {"randint": values}}, confirm={"top_k": 0})
    depths = list(range(*values))
    (effect,) = analyse(sweep, [_trial(n, depth) for n, depth in enumerate(depths)]).effects.keys
    assert [level.label for level in effect.levels] == told
    assert sum(level.trials for level in effect.levels) == len(depths)
    if len(depths) == len(told):
        assert {level.trials for level in effect.levels} == {1}


def _trial(number: int, depth: int) -> TrialRecord:
    reports = {epoch: {METRIC: 0.5} for epoch in range(1, 10)}
    return TrialRecord(number, "search", {"model.depth": depth}, reports=reports, outcome="completed")


def test_trials_that_diverged_are_named_beside_the_intervals_that_they_make_wide(lr_sweep: Sweep) -> None:
    lrs = np.geomspace(1e-4, 1e-2, 12)
    found = 0.5 + 0.01 * np.random.default_rng(0).standard_normal(12)
    assert analyse(lr_sweep, _at(lr_sweep, lrs.tolist(), found.tolist())).effects.note == ""
    found[[3, 7]] = 2e8, 1e9
    effects = analyse(lr_sweep, _at(lr_sweep, lrs.tolist(), found.tolist())).effects
    assert effects.note.startswith("The intervals are so wide because of 0003, 0007, which at epoch ")


def test_points_of_a_narrow_range_keep_apart(tmp_path: Path) -> None:
    sweep = synthetic_sweep(tmp_path, space={"model.ema.momentum": {"uniform": [0.9999, 1.0]}})
    (effect,) = _effects(sweep, []).keys
    found = [float(level.label) for level in effect.levels]
    assert found == pytest.approx([0.999925, 0.99995, 0.999975], abs=6e-6)
    assert len(set(found)) == 3


@pytest.mark.timeout(60)
def test_a_range_of_billions_of_values_is_told_at_its_quarters(tmp_path: Path) -> None:
    """As where the seed varies: it is not gone through."""
    sweep = synthetic_sweep(tmp_path, space={"seed": {"randint": [0, 2**32]}})
    (effect,) = _effects(sweep, []).keys
    assert [level.label for level in effect.levels] == ["42", "1.074e+09", "2.147e+09", "3.221e+09"]


@pytest.mark.parametrize("tried", [0, 1, 12])
def test_a_range_of_which_one_value_was_tried_keeps_no_effect_from_other_keys(
    tmp_path: Path, tried: int
) -> None:
    space = {
        "loss.type": {"choice": ["mse", "cosine"]},
        "loss.use_vicreg": {"choice": [True, False]},
        "loss.vicreg.weight": {"loguniform": [0.1, 10], "when": {"loss.use_vicreg": True}},
    }
    sweep = synthetic_sweep(tmp_path, space=space, scheduler={"type": "fifo", "max_epochs": 2})
    rng, records = np.random.default_rng(0), []
    for number in range(24):
        values = {"loss.type": ["mse", "cosine"][number % 2], "loss.use_vicreg": number < tried}
        values |= {"loss.vicreg.weight": 1.0} if number < tried else {}
        reports = {2: {METRIC: 0.5 + 0.1 * (number % 2) + 0.01 * float(rng.standard_normal())}}
        records.append(TrialRecord(number, "search", values, reports=reports, outcome="completed"))
    loss, vicreg, weight = analyse(sweep, records, with_importances=tried == 12).effects.keys
    assert [level.label for level in loss.levels if level.effect is not None] == ["cosine"]
    assert (vicreg.p is None, weight.p) == (tried == 0, None)
    assert "no two values were tried" in weight.note


def _truth_of(found: Effects, key: str, label: str, reference: str, truth: Truth) -> float:
    match key:
        case "loss.type":
            gain = truth.loss * ((label == "cosine") - (reference == "cosine"))
        case "model.fpn.use_fpn":
            gain = truth.fpn * ((label == "true") - (reference == "true"))
        case "model.fpn.fusion_method":
            gain = truth.fusion * ((label == "concat") - (reference == "concat"))
        case _:
            gain = truth.lr * math.log10(float(label) / float(reference))
    return gain * growth(found.epoch)


def _hits(sweep: Sweep, findings: Findings, truth: Truth, records: list[TrialRecord]) -> list[bool]:
    """Whether each interval holds the truth: those of all levels, slopes and confirmed differences."""
    effects, hits = findings.effects, []
    for effect in effects.keys:
        for level in effect.levels:
            if level.effect is not None:
                value = _truth_of(effects, effect.key, level.label, effect.reference, truth)
                hits.append(level.effect.low <= value <= level.effect.high)
        if effect.trend is not None:
            hits.append(effect.trend.low <= truth.lr * growth(effects.epoch) <= effect.trend.high)
    for config, gain in _gains(sweep, findings, truth, records):
        hits.append(config.low <= gain <= config.high)
    return hits


def _gains(
    sweep: Sweep, findings: Findings, truth: Truth, records: list[TrialRecord]
) -> list[tuple[Estimate, float]]:
    """Each confirmed mean and difference from the base, and the true one."""
    if findings.confirmation is None:
        return []
    base = truth.gain(sweep.base)
    by_number = {record.number: record for record in records}
    means = [
        (c.interval, 0.5 + growth(9) * (0.1 + truth.gain(sweep.resolve(by_number[c.trial].values))))
        for c in (findings.confirmation.base, *findings.confirmation.configs)
        if c.interval is not None
    ]
    return means + [
        (c.difference, (truth.gain(sweep.resolve(by_number[c.trial].values)) - base) * growth(9))
        for c in findings.confirmation.configs
        if c.difference is not None
    ]


def test_intervals_hold_the_truth_in_a_few_sweeps(sweep: Sweep, tmp_path: Path) -> None:
    hits = []
    for seed in range(3):
        one, truth = seeded(sweep, seed), Truth(world=seed)
        records = simulated(one, truth)
        hits += _hits(one, analyse(one, records, with_importances=False), truth, records)
    assert len(hits) >= 30
    # Four standard deviations below 95%, the intervals of a sweep taken for one.
    assert np.mean(hits) >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / len(hits) * 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("algorithm", ["random", "tpe", "gp"])
def test_intervals_hold_the_truth_and_power_is_what_is_claimed_in_200_sweeps(
    algorithm: str, tmp_path: Path
) -> None:
    search = {"algorithm": algorithm, "num_trials": 60, "seed": 0}
    sweep, hits, claimed, found = synthetic_sweep(tmp_path, search=search), [], [], []
    for seed in range(200):
        one, truth = seeded(sweep, seed), Truth(world=seed)
        records = simulated(one, truth)
        findings = analyse(one, records, with_importances=False)
        hits += _hits(one, findings, truth, records)
        (loss,) = [effect for effect in findings.effects.keys if effect.key == "loss.type"]
        estimate = next(level.effect for level in loss.levels if level.label == "cosine")
        if estimate is not None:
            size = truth.loss * growth(findings.effects.epoch)
            freedom = findings.effects.freedom
            assert freedom is not None
            error = (estimate.high - estimate.low) / 2 / stats.t.ppf(0.975, freedom)
            claimed.append(power(size, error, freedom))
            found.append(estimate.low > 0 or estimate.high < 0)
    assert len(hits) >= 2000
    assert 0.93 <= np.mean(hits) <= 0.97
    assert np.mean(found) == pytest.approx(np.mean(claimed), abs=0.07)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("algorithm", ["random", "tpe", "gp"])
def test_where_nothing_has_an_effect_none_is_shown_in_19_of_20_sweeps(algorithm: str, tmp_path: Path) -> None:
    search = {"algorithm": algorithm, "num_trials": 60, "seed": 0}
    sweep, shown = synthetic_sweep(tmp_path, search=search), {"effects": [], "confirmed": []}
    for seed in range(200):
        one = seeded(sweep, seed)
        findings = analyse(one, simulated(one, Truth.nothing(seed)), with_importances=False)
        shown["effects"].append(any(effect.shown for effect in findings.effects.keys))
        assert findings.confirmation is not None
        shown["confirmed"].append(
            any(config.verdict in ("better", "worse") for config in findings.confirmation.configs)
        )
    for kind, happened in shown.items():
        # Of 200, two standard deviations above 5%.
        assert np.mean(happened) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200), kind


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_rank_correlation_lies_within_its_interval(sign: int) -> None:
    found = spearman(np.array([[place, sign * place] for place in range(300)], dtype=float))
    assert found is not None
    assert found.value == pytest.approx(sign)
    assert found.low <= found.value <= found.high
