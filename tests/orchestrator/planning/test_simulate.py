from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.storages import InMemoryStorage

from orchestrator.planning.simulate import Step, simulate
from orchestrator.search.agenda import Agenda
from orchestrator.search.decision import Decisions, first_look
from orchestrator.search.halving import PromotingAsha
from orchestrator.search.sampler import build_sampler
from orchestrator.space import Sweep, load_sweep
from orchestrator.study.record import TrialRecord
from orchestrator.study.study import Study
from tests.workplace import SPACE, TINY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path


def sweep_of(folder: Path, trials: int, algorithm: str = "random", **scheduler: Any) -> Sweep:
    settings = {"type": "asha", "max_epochs": 9, "grace_epochs": 1, "reduction_factor": 3, "audit": 0}
    space = {
        "search": {"algorithm": algorithm, "num_trials": trials, "seed": 0},
        "scheduler": settings | scheduler,
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE | space))
    return load_sweep(folder / "space.yaml")


def rising(record: TrialRecord) -> list[float]:
    """The later a trial was proposed the better it is, at every epoch."""
    return [0.2 + record.number / 1000 + epoch / 100 for epoch in range(1, 10)]


def falling(record: TrialRecord) -> list[float]:
    return [0.9 - record.number / 1000 + epoch / 100 for epoch in range(1, 10)]


def ends(steps: list[Step]) -> Counter[str]:
    return Counter(str(s.trial.outcome) for s in {s.trial.number: s for s in steps}.values())


@pytest.mark.parametrize("curve", [rising, falling])
@pytest.mark.parametrize("workers", [1, 4])
def test_every_simulated_trial_ends_and_the_best_one_gets_to_the_last_epoch(
    folder: Path, curve: Any, workers: int
) -> None:
    steps = list(simulate(sweep_of(folder, 27), curve, workers))
    assert ends(steps).keys() == {"completed", "pruned"}
    searched = {s.trial.number: s.trial for s in steps if s.trial.role == "search"}
    assert len(searched) == 27
    best = max(searched.values(), key=lambda record: curve(record)[-1])
    assert best.outcome == "completed"
    assert len({(s.trial.number, s.epoch) for s in steps}) == len(steps) == steps[-1].epochs


def test_the_first_trials_at_a_rung_wait_where_the_stopping_kind_lets_them_through(folder: Path) -> None:
    outcome = {}
    for kind in ("asha", "asha_stopping"):
        steps = list(simulate(sweep_of(folder, 27, type=kind), rising, 1))
        outcome[kind] = next(s.trial.outcome for s in steps if s.trial.number == 1)
    assert outcome == {"asha": "pruned", "asha_stopping": "completed"}


def crossing(record: TrialRecord) -> list[float]:
    """The better at first the worse in the end."""
    good = record.number / 1000
    return [0.5 + (good if epoch < 3 else -good) + epoch / 100 for epoch in range(1, 10)]


def test_the_budget_grows_only_while_rankings_change(folder: Path) -> None:
    for curve, grown in ((falling, False), (rising, False), (crossing, True)):
        spent = {}
        for kind in ("asha", "pasha"):
            steps = list(simulate(sweep_of(folder, 27, type=kind), curve, 1))
            assert ends(steps).keys() == {"completed", "pruned"}
            spent[kind] = {s.trial.number for s in steps if s.epoch > 3 and s.trial.role == "search"}
        if grown:
            assert spent["pasha"] == spent["asha"]
        else:  # the best alone goes on, when the search is over
            (only,) = spent["pasha"]
            assert only == (1 if curve is falling else 27)
            assert len(spent["asha"]) > 1


def test_a_trial_waits_at_no_rung_before_its_brackets_first(folder: Path) -> None:
    sweep = sweep_of(folder, 40)
    steps = list(simulate(sweep, falling, 2))
    least = {s.trial.number: len(s.trial.reports) for s in steps if s.trial.role == "search"}
    first = {number: first_look(sweep, number) for number in least}
    assert set(first.values()) == {1, 3}
    assert all(least[number] >= first[number] for number in least)
    assert {least[number] for number in least if first[number] == 1} >= {1}
    one = list(simulate(sweep_of(folder, 40, brackets=1), falling, 2))
    assert len(one) < len(steps)


def test_audited_trials_run_to_the_end_however_weak(folder: Path) -> None:
    steps = list(simulate(sweep_of(folder, 9, audit=1.0), falling, 2))
    assert ends(steps) == {"completed": 10}


def test_a_small_search_still_brings_one_trial_to_the_end(folder: Path) -> None:
    steps = list(simulate(sweep_of(folder, 2), falling, 2))
    done = [s.trial.number for s in steps if s.epoch == 9]
    assert len(done) == 2
    assert ends(steps) == {"completed": 2, "pruned": 1}


def test_workers_are_never_more_than_there_are_and_time_is_what_epochs_take(folder: Path) -> None:
    steps = list(simulate(sweep_of(folder, 9, type="fifo"), rising, 3, lambda _: 2.0))
    assert len(steps) == 90
    assert max(Counter(s.time_s for s in steps).values()) == 3
    assert steps[-1].time_s == 72.0  # ten trials in four rounds of nine epochs


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_rungs_places_and_proposals_come_back_from_the_record_at_any_moment(
    folder: Path, algorithm: str
) -> None:
    """One that is closed after each report and opened again gives the trials of one that is not."""
    sweep, storage = sweep_of(folder, 12, algorithm), InMemoryStorage()
    expected = [(s.trial.number, s.epoch, s.value) for s in simulate(sweep, falling, 1)]
    found = []
    for _ in expected:
        study = Study(folder / "s", sweep, build_sampler(sweep), storage=storage)
        found.append(_one_report(sweep, study))
    assert found == expected


def _one_report(sweep: Sweep, study: Study) -> tuple[int, int, float]:
    """Open what is recorded, take one report as a driver would, and leave."""
    decisions = Decisions(sweep, study)
    assert decisions.replay() == []
    agenda = Agenda(sweep, study, decisions)
    record = agenda.next()
    assert record is not None
    agenda.next()  # Tune asks for one more
    epoch = max(record.reports, default=0) + 1
    value = falling(record)[epoch - 1]
    study.report(record.number, epoch, {study.metric: value}, None)
    decisions.enter(record, epoch)
    verdict = decisions.verdict(record, epoch)
    if verdict is not None and verdict.outcome == "parked":
        study.park(record.number, epoch)
    elif verdict is not None:
        study.end(record.number, verdict.outcome, verdict.reason)
    return record.number, epoch, value


def test_a_waiting_trial_is_promoted_once_enough_weaker_ones_have_come() -> None:
    rungs = PromotingAsha([1, 3], 3, "max")
    for trial, value in enumerate([0.5, 0.4, 0.6]):
        rungs.record(trial, 1, value)
        if not rungs.goes_on(trial, 1):
            rungs.park(trial, 1)
    assert rungs.parked == {0: 1, 1: 1}  # the third is the best of three
    assert rungs.promotable() is None
    for trial in (3, 4, 5):
        rungs.record(trial, 1, 0.1)
        rungs.park(trial, 1)
    assert rungs.promotable() == 0
    rungs.release(0)
    assert rungs.promotable() is None
    assert rungs.furthest() == 1


def test_where_only_waiting_trials_are_left_nothing_is_left_to_run(folder: Path) -> None:
    sweep = sweep_of(folder, 2, max_epochs=3)
    study = Study(folder / "s", sweep, build_sampler(sweep), storage=InMemoryStorage())
    for epoch in (1, 2, 3):
        study.report(study.ask("base").number if epoch == 1 else 0, epoch, {study.metric: 0.5}, None)
    weak, done = study.ask().number, study.ask().number
    study.report(weak, 1, {study.metric: 0.01}, None)
    for epoch in (1, 2, 3):
        study.report(done, epoch, {study.metric: 0.9}, None)
    decisions = Decisions(sweep, study)
    for record, verdict in decisions.replay():
        if verdict.outcome == "parked":
            study.park(record.number, 1)
        else:
            study.end(record.number, verdict.outcome)
    assert study.trials[weak].parked == 1
    given_up = Agenda(sweep, study, decisions).given_up()
    assert [(record.number, verdict.outcome) for record, verdict in given_up] == [(weak, "pruned")]
