"""Whether a sweep is over, as `status` tells it and a batch job goes by it."""

import json
from pathlib import Path

import pytest

from orchestrator.definition import write_definition
from orchestrator.search.agenda import reruns_left, work_is_left
from orchestrator.search.sampler import build_sampler
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord
from orchestrator.study.study import Study
from orchestrator.watching.status import read_status
from tests.recorded import begun, space

SEARCH = {"algorithm": "random", "num_trials": 2, "time_budget": 100.0}
CONFIRM = {"top_k": 2, "seeds": 2}


def run(study: Study, record: TrialRecord, collapsed: str | None = None) -> None:
    for epoch in (1,) if collapsed else (1, 2, 3):
        study.report(record.number, epoch, {study.metric: 0.5}, None, collapsed)
    study.end(record.number, "collapsed" if collapsed else "completed")


def states(folder: Path) -> set[str]:
    """As read by whoever wants all reports, and by who wants the newest only."""
    return {read_status(folder, newest_only=brief).state for brief in (False, True)}


def searched(tmp_path: Path, collapsed: bool = False, **search: object) -> tuple[Sweep, Path, Study]:
    """A sweep whose base and two trials are over, and whose fresh seeds have not begun."""
    sweep = space(tmp_path, search=SEARCH | search, confirm=CONFIRM)
    folder, study = begun(tmp_path / "results", sweep)
    run(study, study.ask("base", sweep.base_values()))
    run(study, study.ask())
    run(study, study.ask(), "no spread" if collapsed else None)
    return sweep, folder, study


def confirm(sweep: Sweep, study: Study) -> None:
    while left := reruns_left(sweep, study):
        run(study, study.ask_again(*left[0]))


def test_what_proposes_the_trials_is_named(tmp_path: Path) -> None:
    folder = searched(tmp_path)[1]
    found = read_status(folder)
    assert found.words().splitlines()[1].endswith("; proposed by random")
    assert found.data()["algorithm"] == "random"
    listed = space(
        tmp_path,
        name="listed",
        space={"loss.type": {"choice": ["mse", "cosine"]}},
        search={"algorithm": "grid"},
    )
    assert "proposed" not in read_status(begun(tmp_path / "results", listed)[0]).words()


@pytest.mark.parametrize("by", ["budget", "exhausted"])
def test_a_search_that_ended_early_is_no_finished_sweep_before_its_fresh_seeds(
    tmp_path: Path, by: str
) -> None:
    sweep, folder, study = searched(tmp_path, num_trials=2 if by == "budget" else 9)
    if by == "budget":
        study.end_search({"key": "search.time_budget", "whole": 100.0, "spent": 81.0})
    else:
        study.exhaust("nothing left")
    assert work_is_left(sweep, study)
    assert states(folder) == {"interrupted"}
    confirm(sweep, study)
    assert not work_is_left(sweep, study)
    assert states(folder) == {"interrupted"}, "nobody has been told the answer"
    study.answer()
    assert states(folder) == {"finished"}


def test_a_sweep_with_fewer_finalists_than_were_asked_for_is_finished(tmp_path: Path) -> None:
    sweep, folder, study = searched(tmp_path, collapsed=True)
    confirm(sweep, study)
    study.answer()
    assert states(folder) == {"finished"}
    assert "finished, 7 of 9 trials over" in read_status(folder).line()


@pytest.mark.parametrize(
    "changed",
    [
        {"search": SEARCH | {"num_trials": 3}},
        {"search": SEARCH | {"time_budget": 200.0}},
        {"search": SEARCH | {"cost_budget": 1.0}},
        {"confirm": {"top_k": 1, "seeds": 3}},
    ],
)
def test_a_sweep_that_was_asked_for_more_is_not_finished_before_it_has_answered_again(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    sweep, folder, study = searched(tmp_path)
    confirm(sweep, study)
    study.answer()
    more = space(tmp_path, **{"search": SEARCH, "confirm": CONFIRM, **changed})
    write_definition(folder, more)
    again = Study(folder, more, build_sampler(more))
    assert (states(folder), again.is_answered) == ({"interrupted"}, False)
    again.answer()
    assert (states(folder), again.is_answered) == ({"finished"}, True)


def test_a_sweep_that_has_more_trials_than_are_asked_for_now_counts_them(tmp_path: Path) -> None:
    """Since it was cut down, or has other finalists after it was extended."""
    sweep, folder, study = searched(tmp_path)
    confirm(sweep, study)
    write_definition(folder, space(tmp_path, search=SEARCH | {"num_trials": 1}, confirm={"top_k": 1}))
    found = read_status(folder)
    assert "9 of 9 trials over" in found.line()
    assert found.data()["total"] == 9


def test_what_is_reported_after_an_answer_makes_it_an_old_one(tmp_path: Path) -> None:
    """A trial that a budget held up has gone on, and no trial began or ended since."""
    sweep, folder, study = searched(tmp_path)
    held = study.ask()
    study.report(held.number, 1, {study.metric: 0.4}, None)
    study.answer()
    assert states(folder) == {"finished"}
    study.report(held.number, 2, {study.metric: 0.6}, None)
    assert states(folder) == {"interrupted"}
    assert not Study(folder, sweep, build_sampler(sweep)).is_answered


def test_a_failed_trial_that_was_taken_up_again_is_counted_once(tmp_path: Path) -> None:
    _, folder, study = searched(tmp_path, num_trials=3)
    failed = study.ask()
    study.end(failed.number, "failed", "out of memory")
    run(study, study.take_up(failed))
    found = read_status(folder)
    assert "4 of 10 trials over (4 completed)" in found.line()
    assert found.data()["trials_by_state"] == {"completed": 4}


def test_what_a_trial_failed_by_again_and_again_is_said_once(tmp_path: Path) -> None:
    _, folder, study = searched(tmp_path, num_trials=3)
    failed = study.ask()
    for text in ("no such folder; tried again", "its node was lost; goes on elsewhere") * 2:
        study.note(failed.number, text)
    study.end(failed.number, "failed", "no such folder")
    (row,) = (line for line in read_status(folder).words().splitlines() if line.startswith(failed.id))
    assert row.count("no such folder") == 1
    assert "; no such folder (3 times); its node was lost; goes on elsewhere" in row


def test_json_holds_no_nan(tmp_path: Path) -> None:
    _, folder, study = searched(tmp_path, num_trials=3)
    record = study.ask()
    study.report(record.number, 1, {study.metric: float("nan")}, None)
    json.dumps(read_status(folder).data(), allow_nan=False)
