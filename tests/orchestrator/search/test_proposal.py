"""What is proposed: nothing that breaks a constraint, nothing twice, the same after an interruption."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState

from orchestrator.definition import write_definition
from orchestrator.reporting.terminal import SweepResult, summary
from orchestrator.search.agenda import Agenda, work_is_left
from orchestrator.search.decision import Decisions
from orchestrator.search.proposal import NothingLeftError, near, propose
from orchestrator.search.sampler import BEST, LOOKED_AT, TrialsView, build_sampler, is_by_chance
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord
from orchestrator.study.study import Study
from orchestrator.watching.status import read_status
from tests.orchestrator.search.spaces import sweep_of

LR = {"training.lr": {"loguniform": [1e-4, 1e-2]}}
WEIGHTS = {"loss.hierarchy_weights": {"simplex": 2}}
TYPES = {"loss.type": {"choice": ["mse", "smoothl1", "cosine"]}, "model.depth": {"choice": [1, 2]}}
TIGHT = ["training.lr < 3e-4", "loss.hierarchy_weights[0] > 0.5"]  # an eighth of the space


def opened(folder: Path, sweep: Sweep) -> Study:
    return Study(folder / "results", sweep, build_sampler(sweep))


def run_all(folder: Path, sweep: Sweep, reopened: bool = False) -> Study:
    """Every trial of the agenda, each with a value that rises with the weight of the finest level."""
    study = opened(folder, sweep)
    agenda = Agenda(sweep, study, Decisions(sweep, study))
    while (record := agenda.next()) is not None:
        weights = record.values.get("loss.hierarchy_weights", [0.5])
        study.report(record.number, 3, {"val/knn_top1": 0.1 + 0.8 * weights[0]}, None)
        study.end(record.number, "completed")
        if reopened:
            study = opened(folder, sweep)
            agenda = Agenda(sweep, study, Decisions(sweep, study))
    return study


def search_values(study: Study) -> list[dict[str, Any]]:
    return [record.values for record in study.trials.values() if record.role == "search"]


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "random"])
def test_proposals_keep_the_constraints_and_cost_no_trial(tmp_path: Path, algorithm: str) -> None:
    sweep = sweep_of(tmp_path, LR | WEIGHTS, algorithm, constraints=TIGHT)
    study = run_all(tmp_path, sweep)
    assert len(search_values(study)) == 16
    assert all(sweep.broken(values) is None for values in search_values(study))
    passed = [reason for record in study.trials.values() for reason in record.passed_over]
    assert {"breaks training.lr < 3e-4", "breaks loss.hierarchy_weights[0] > 0.5"} <= set(passed)
    assert opened(tmp_path, sweep).trials == study.trials


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "random"])
def test_interrupted_after_every_trial_the_same_is_proposed(tmp_path: Path, algorithm: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    space = TYPES | {
        "training.lr": {"loguniform": [1e-4, 1e-2], "prior": {"value": 2e-4, "confidence": 0.7}},
        "loss.hierarchy_weights": {"simplex": 2, "prior": {"value": [0.7, 0.3], "confidence": 0.5}},
    }
    whole = sweep_of(tmp_path / "a", space, algorithm, constraints=TIGHT)
    pieces = sweep_of(tmp_path / "b", space, algorithm, constraints=TIGHT)
    once = run_all(tmp_path / "a", whole)
    again = run_all(tmp_path / "b", pieces, reopened=True)
    assert search_values(once) == search_values(again)
    assert [r.passed_over for r in once.trials.values()] == [r.passed_over for r in again.trials.values()]


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "random", "grid"])
def test_each_configuration_of_a_finite_space_is_run_once(tmp_path: Path, algorithm: str) -> None:
    """Of six, one is the base's own, so five are left, however many trials are asked for."""
    sweep = sweep_of(tmp_path, TYPES, algorithm, trials=40)
    assert sweep.num_trials == 5
    study = run_all(tmp_path, sweep)
    runs = [sweep.identity(record.values) for record in study.trials.values()]
    assert len(runs) == len(set(runs)) == 6
    assert study.searched == sweep.num_trials
    assert not work_is_left(sweep, study)
    if algorithm == "random":
        assert any("again" in reason for record in study.trials.values() for reason in record.passed_over)


def test_the_gaussian_process_proposes_no_trial_again_that_it_does_not_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOOKED_AT, "gp", 10)
    monkeypatch.setitem(BEST, "gp", 5)
    lr = {"training.lr": {"choice": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3]}}
    sweep = sweep_of(tmp_path, TYPES | lr, "gp", trials=30)
    study = opened(tmp_path, sweep)
    for _ in range(30):
        record = study.ask()
        study.report(record.number, 3, {"val/knn_top1": 100 * record.values["training.lr"]}, None)
        study.end(record.number, "completed")
    own = [record for record in study.trials.values() if not is_by_chance(0, record.number)]
    assert len(own) > 15
    assert not any("again" in reason for record in own for reason in record.passed_over)


def test_a_failed_trial_is_not_proposed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.search.proposal.MAX_ATTEMPTS", 100)
    sweep = sweep_of(tmp_path, TYPES, "random", trials=40)
    study = opened(tmp_path, sweep)
    study.ask("base", sweep.base_values())
    for _ in range(5):
        study.end(study.ask().number, "failed", "crashed")
    assert len({sweep.identity(record.values) for record in study.trials.values()}) == 6
    with pytest.raises(NothingLeftError, match="each configuration of the space has been run"):
        study.ask()


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "random"])
def test_what_chance_does_not_find_of_a_finite_space_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """The more of it is done, the more of what is drawn is something that was run already."""
    monkeypatch.setattr("orchestrator.search.proposal.MAX_ATTEMPTS", 1)
    sweep = sweep_of(tmp_path, TYPES, algorithm, trials=40)
    study = run_all(tmp_path, sweep, reopened=True)
    assert len({sweep.identity(record.values) for record in study.trials.values()}) == 6
    assert study.exhausted is None
    assert not work_is_left(sweep, study)


def test_where_nothing_is_left_to_propose_the_search_ends_and_what_follows_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a continuous space nobody can say what is left; an eighth of it keeps the constraints."""
    monkeypatch.setattr("orchestrator.search.proposal.MAX_ATTEMPTS", 20)
    space, confirm = LR | WEIGHTS, {"top_k": 1, "seeds": 2}
    sweep = sweep_of(tmp_path, space, "random", trials=100, constraints=TIGHT, confirm=confirm)
    study = run_all(tmp_path, sweep, reopened=True)
    assert 1 < study.searched < 100
    assert len(study.rerun) == 4
    assert study.exhausted is not None
    assert f"the search ends with {study.searched} of 100 trials: 20 proposals" in study.exhausted
    assert not work_is_left(sweep, study)
    said: list[str] = []
    again = opened(tmp_path, sweep)
    assert Agenda(sweep, again, Decisions(sweep, again), say=said.append).next() is None
    assert said == [], "once is enough"
    study.answer()
    folder = (tmp_path / "results").rename(tmp_path / sweep.config.name)
    write_definition(folder, sweep)
    status = read_status(folder)
    assert status.state == "finished"
    assert study.exhausted in status.words()


def test_an_asking_cut_short_after_its_values_is_completed(tmp_path: Path) -> None:
    """The values are one write, and Optuna's parameters follow from them."""
    sweep = sweep_of(tmp_path, LR | WEIGHTS, constraints=TIGHT)
    study = opened(tmp_path, sweep)
    record = study.ask()
    journal = tmp_path / "results/study.journal"
    lines = journal.read_text().splitlines(keepends=True)
    wrote = max(i for i, line in enumerate(lines) if '"trial"' in line)
    assert len(lines) - wrote == 3  # the learning rate, and the first of two weights
    journal.write_text("".join(lines[: wrote + 2]))
    again = opened(tmp_path, sweep)
    assert again.trials == {record.number: record}
    assert again._study.trials[0].params == study._study.trials[0].params == sweep.params(record.values)


@pytest.mark.parametrize("algorithm", ["tpe", "gp"])
def test_weights_on_a_simplex_are_learned(tmp_path: Path, algorithm: str) -> None:
    """The value is the first weight; half of what is drawn at random would be above a half."""
    sweep = sweep_of(tmp_path, WEIGHTS, algorithm, trials=40)
    late = search_values(run_all(tmp_path, sweep))[20:]
    assert np.mean([values["loss.hierarchy_weights"][0] for values in late]) > 0.75


def test_of_many_trials_tpe_looks_at_the_best_and_at_every_so_many_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the sixty wait at a rung. Optuna's own split says which are the best."""
    sweep = sweep_of(tmp_path, LR, trials=100)
    study = opened(tmp_path, sweep)
    for number in range(60):
        study.ask("search", {"training.lr": 1e-4 * 1.05**number})
        study.report(number, 3, {"val/knn_top1": (number * 37 % 60) / 60}, None)
        if number % 2:
            study.end(number, "completed")
    seen = TrialsView(study._study, "tpe")._get_trials()
    assert [trial.number for trial in seen] == list(range(60))
    monkeypatch.setitem(LOOKED_AT, "tpe", 40)
    view = TrialsView(study._study, "tpe")
    seen = view._get_trials()
    numbers = [trial.number for trial in seen]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 40
    below, _ = _split_trials(study._study, TrialsView(study._study)._get_trials(), BEST["tpe"])
    assert {trial.number for trial in below} <= set(numbers)
    assert len(view.of_each_kind()._get_trials()) == 1


def test_tpe_takes_nobody_for_good_who_only_came_far(tmp_path: Path) -> None:
    """Trial 0 runs to the end whatever it is worth, as one that is audited does; trial 9 collapses."""
    sweep = sweep_of(tmp_path, LR, trials=100)
    study = opened(tmp_path, sweep)
    for number in range(10):
        study.ask("search", {"training.lr": 1e-4 * 1.05**number})
        study.report(number, 1, {"val/knn_top1": 0.1 * number}, None)
    for number in (0, 5, 6):
        study.report(number, 3, {"val/knn_top1": 0.1 * number}, None)
    study.report(0, 9, {"val/knn_top1": 0.05}, None)
    study.end(0, "completed")
    study.end(9, "collapsed", "no spread")
    aware = TrialsView(study._study, "tpe", looks=[1, 3, 9])._get_trials()
    (best,), _ = _split_trials(study._study, aware, 1)
    assert best.number == 8
    values = {trial.number: trial.value for trial in aware if trial.state == TrialState.COMPLETE}
    assert min(values, key=lambda number: values[number] or 0.0) == 0
    assert values.keys() == set(range(9)), "what collapsed is none to compare with"
    assert study._study.trials[8].state == TrialState.RUNNING, "as it was"
    (best,), _ = _split_trials(study._study, TrialsView(study._study, "tpe")._get_trials(), 1)
    assert best.number == 0, "Optuna by itself prefers who came furthest"


@pytest.mark.parametrize("algorithm", ["gp", "tpe"])
def test_a_third_of_a_search_that_learns_is_drawn_at_random(tmp_path: Path, algorithm: str) -> None:
    """The others are near the best value, 1, of which draws at random are evenly far."""
    sweep = sweep_of(tmp_path, WEIGHTS, algorithm, trials=120)
    late = [values["loss.hierarchy_weights"][0] for values in search_values(run_all(tmp_path, sweep))[30:]]
    assert 0.1 < np.mean(np.array(late) < 0.6) < 0.35


@pytest.mark.parametrize("metric", ["val/knn_top1", "train/loss"])
def test_the_gaussian_processes_are_told_what_each_trial_was_worth_at_each_look(
    tmp_path: Path, metric: str
) -> None:
    """More is better, whatever the objective. What collapsed is as bad as any at each look."""
    sweep = sweep_of(tmp_path, LR, trials=100, objective={"metric": metric})
    study, sign = opened(tmp_path, sweep), 1 if metric == "val/knn_top1" else -1
    curves = [{1: 0.5}, {1: 0.4, 3: 0.6}, {1: 0.3, 2: 0.8, 3: 0.7, 9: 0.9}, {2: 0.2}, {}, {1: 0.6}, {1: 0.1}]
    for number, curve in enumerate(curves):
        study.ask("search", {"training.lr": 1e-4 * 1.05**number})
        for epoch, value in curve.items():
            study.report(number, epoch, {metric: sign * value}, None)
    study.end(2, "completed")
    study.end(5, "collapsed", "no spread")
    study.end(6, "failed", "crashed")
    told = TrialsView(study._study, "gp", looks=[1, 3, 9]).told()
    nan = np.nan
    expected = [[0.5, nan, nan], [0.4, 0.6, nan], [0.3, 0.7, 0.9], [0.3, 0.6, 0.9]]
    np.testing.assert_allclose(told.values_NL, expected)
    rates = [1e-4 * 1.05**number for number in range(7)]
    assert [params["training.lr"] for params in told.trials] == pytest.approx([*rates[:3], rates[5]])
    assert [params["training.lr"] for params in told.pending] == pytest.approx(rates[3:5])
    assert len(told.tried) == 7


def test_without_rungs_they_are_told_the_end_alone(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, LR, trials=100)
    study = opened(tmp_path, sweep)
    for number, value in enumerate((0.1, 0.2)):
        study.ask("search", {"training.lr": 1e-4 * (1 + number)})
        for epoch in (1, 2, 3):
            study.report(number, epoch, {"val/knn_top1": value * epoch}, None)
    study.end(0, "completed")
    assert TrialsView(study._study, "gp", looks=[3]).told().values_NL == pytest.approx(
        np.array([[0.3], [0.6]])
    )


def test_a_failed_trial_does_not_hide_the_others_of_its_kind(tmp_path: Path) -> None:
    study = opened(tmp_path, sweep_of(tmp_path, LR))
    for number in range(2):
        study.ask("search", {"training.lr": 1e-3 * (number + 1)})
        study.report(number, 3, {"val/knn_top1": 0.5}, None)
        study.end(number, "completed" if number else "failed")
    kinds = TrialsView(study._study, "tpe").of_each_kind()._get_trials()
    assert [trial.number for trial in kinds] == [1]


def test_a_base_outside_the_space_and_fresh_seeds_change_no_proposal(tmp_path: Path) -> None:
    """They have no values of the space, from which TPE could learn."""
    sweep = sweep_of(tmp_path, LR, trials=100)
    study = opened(tmp_path, sweep)

    def run(record: TrialRecord, value: float) -> TrialRecord:
        study.report(record.number, 3, {"val/knn_top1": value}, None)
        return study.end(record.number, "completed")

    def proposed() -> list[Any]:
        return [propose(study._study, sweep, number, open_id, {}).values for number in range(100, 110)]

    found = [run(study.ask("search", {"training.lr": 1e-4 * 1.2**n}), n / 20) for n in range(15)]
    open_id = study._study._storage.create_new_trial(study._study._study_id)  # for Optuna's notes
    before = proposed()
    run(study.ask("base", None), 0.99)
    for seed in range(8):
        run(study.ask_again(found[-1], seed), 0.9)
    study.ask_again(found[-1], seed=8)
    assert proposed() == before
    assert [trial.number for trial in TrialsView(study._study)._get_trials()] == list(range(15))


def test_fresh_seeds_stand_at_no_rung(tmp_path: Path) -> None:
    """A sweep that is extended once they have been run judges new trials by those of the search."""
    sweep = sweep_of(tmp_path, LR, scheduler={"type": "asha", "max_epochs": 9, "grace_epochs": 1})
    study = opened(tmp_path, sweep)
    decisions = Decisions(sweep, study)
    found = study.ask()
    for record in (found, study.ask_again(found, seed=43), study.ask_again(found, seed=44)):
        study.report(record.number, 1, {"val/knn_top1": 0.5}, None)
        decisions.enter(record, 1)
    again = Decisions(sweep, study)
    again.replay()
    assert decisions.asha.rungs[1] == again.asha.rungs[1] == {found.number: 0.5}


def test_the_summary_counts_what_was_not_run(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, LR)
    passed = [{"breaks a < b": 2, "is trial 0000 again": 1}, {"breaks a < b": 1, "is trial 0001 again": 3}]
    records = [TrialRecord(i, "search", {}, outcome="failed", passed_over=p) for i, p in enumerate(passed)]
    text = summary(SweepResult(Path("results/s"), records, None, None, 0), sweep, "http://localhost")
    assert "\n  3 proposed and not run: breaks a < b\n  4 proposed and not run: is a trial again\n" in text


def test_a_prior_draws_the_first_proposals_near_it_and_fades(tmp_path: Path) -> None:
    """Of the range, 0.4 decades around the prior are two deviates, and two fifths of what is drawn evenly."""
    prior = {"value": 1e-3, "confidence": 1}
    sweep = sweep_of(tmp_path, {"training.lr": LR["training.lr"] | {"prior": prior}}, "random")
    study = opened(tmp_path, sweep)._study

    def share_near(numbers: range) -> float:
        found = [propose(study, sweep, number, 0, {}).values["training.lr"] for number in numbers]
        return float(np.mean(np.abs(np.log10(found) + 3) < 0.4))

    assert share_near(range(1, 2)) == 1
    assert share_near(range(1, 101)) == pytest.approx(0.25 * 0.95 + 0.75 * 0.4, abs=0.15)
    assert share_near(range(10_000, 10_300)) == pytest.approx(0.4, abs=0.08)


@pytest.mark.parametrize(
    ("distribution", "centre"),
    [
        (FloatDistribution(1e-4, 1e-2, log=True), 1e-3),
        (FloatDistribution(0.0, 1.0), 0.98),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.5),
        (IntDistribution(1, 9), 8),
        (IntDistribution(1, 64, log=True), 8),
        (CategoricalDistribution(["a", "b"]), "b"),
    ],
)
def test_what_is_near_lies_in_the_range_around_its_centre(distribution: Any, centre: Any) -> None:
    rng = np.random.default_rng(0)
    found = [near(centre, distribution, rng) for _ in range(500)]
    assert all(distribution._contains(distribution.to_internal_repr(value)) for value in found)
    if isinstance(centre, str):
        assert set(found) == {centre}
    else:
        assert abs(np.median(found) - centre) <= 0.03 * distribution.high
        assert len(set(found)) > 1
