"""What becomes of a trial that failed and is taken up again: what would have, had it not failed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.search.decision import Decisions, Verdict
from orchestrator.search.sampler import build_sampler
from orchestrator.space import Sweep, load_sweep
from orchestrator.study.record import TrialRecord, rank
from orchestrator.study.study import Study
from tests.workplace import SPACE, TINY

ONE_BRACKET = {"max_epochs": 9, "grace_epochs": 1, "reduction_factor": 3, "audit": 0, "brackets": 1}


def swept(folder: Path, scheduler: Mapping[str, Any]) -> tuple[Sweep, Study]:
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SPACE | {"scheduler": dict(scheduler)}))
    sweep = load_sweep(folder / "tiny.yaml")
    return sweep, reopened(folder, sweep)


def reopened(folder: Path, sweep: Sweep) -> Study:
    return Study(folder / "results", sweep, build_sampler(sweep))


def report(study: Study, decisions: Decisions, record: TrialRecord, epoch: int, value: float) -> None:
    study.report(record.number, epoch, {"val/knn_top1": value}, None)
    decisions.enter(record, epoch)


def taken_up(study: Study, failed: TrialRecord) -> TrialRecord:
    study.end(failed.number, "failed", "its process died")
    return study.take_up(failed)


def test_who_came_first_to_a_rung_still_came_first(tmp_path: Path) -> None:
    """Of the stopping kind the first goes on, however weak; entered behind the second it would be stopped."""
    sweep, study = swept(tmp_path, ONE_BRACKET | {"type": "asha_stopping"})
    decisions = Decisions(sweep, study)
    first, second = study.ask(), study.ask()
    report(study, decisions, first, 1, 0.5)
    assert decisions.verdict(first, 1) is None
    report(study, decisions, second, 1, 0.9)
    again = taken_up(study, first)
    report(study, decisions, second, 2, 0.9)
    for known in (study, reopened(tmp_path, sweep)):
        assert Decisions(sweep, known).replay() == []
        orders = [
            facts.order for record in (again, second) for facts in known.trials[record.number].facts.values()
        ]
        assert orders[0] < orders[1] < orders[2]


def test_who_had_waited_at_a_rung_is_not_made_to_wait_there_again(tmp_path: Path) -> None:
    sweep, study = swept(tmp_path, ONE_BRACKET | {"type": "asha"})
    decisions = Decisions(sweep, study)
    trials = [study.ask() for _ in range(6)]
    for place, record in enumerate(trials[:3]):
        report(study, decisions, record, 1, 0.5 - place / 10)
        if decisions.verdict(record, 1) is not None:
            study.park(record.number, 1)
    promoted = decisions.promotable()
    assert promoted == trials[0]
    decisions.promote(promoted)
    for record in trials[3:]:  # which are better
        report(study, decisions, record, 1, 0.9)
        study.end(record.number, "completed")
    study.end(promoted.number, "failed", "its process died")
    study = reopened(tmp_path, sweep)  # as by `retry --failed`, in a process of its own
    again = study.take_up(study.trials[promoted.number])
    assert reopened(tmp_path, sweep).trials == study.trials
    decided = [record.number for record, _ in Decisions(sweep, study).replay()]
    assert again.number not in decided


@pytest.mark.parametrize("times", [1, 2])
def test_who_is_audited_or_looked_at_late_stays_so(tmp_path: Path, times: int) -> None:
    """Both are drawn by a trial's number, and another one would draw otherwise."""
    drawn = {"max_epochs": 27, "grace_epochs": 1, "reduction_factor": 3, "audit": 0.3}
    sweep, study = swept(tmp_path, drawn | {"type": "asha_stopping"})
    decisions = Decisions(sweep, study)
    trials = [study.ask() for _ in range(12)]
    for place, record in enumerate(trials):
        report(study, decisions, record, 1, 0.9 - place / 100)
    before = [decisions.verdict(record, 1) is None for record in trials]
    assert len(set(before)) == 2
    for _ in range(times):
        trials = [taken_up(study, record) for record in trials]
    decisions = Decisions(sweep, study)
    decisions.replay()
    assert [decisions.verdict(record, 1) is None for record in trials] == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("epoch", [1, 9])
def test_an_objective_that_is_no_number_fails_its_trial_and_stands_at_no_rung(
    tmp_path: Path, value: float, epoch: int
) -> None:
    sweep, study = swept(tmp_path, ONE_BRACKET | {"type": "asha"})
    decisions = Decisions(sweep, study)
    first, second = study.ask(), study.ask()
    for each in range(1, epoch):
        report(study, decisions, first, each, 0.5)
    report(study, decisions, first, epoch, value)
    verdict = decisions.verdict(first, epoch)
    assert verdict == Verdict("failed", f"val/knn_top1 is {value} after epoch {epoch}")
    report(study, decisions, second, 1, 0.4)
    assert decisions.asha.rank(second.number, 1) == f"place {1 + (epoch > 1)} of {1 + (epoch > 1)} at epoch 1"
    # An older version called it completed.
    assert rank([replace(first, outcome="completed")], "val/knn_top1", "max") == []
