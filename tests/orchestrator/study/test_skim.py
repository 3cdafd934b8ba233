"""A journal skimmed: as read whole, but for the older reports."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState

from orchestrator.definition import JOURNAL
from orchestrator.search.sampler import build_sampler
from orchestrator.space import ConfigError
from orchestrator.study.reading import read_study, trials_of
from orchestrator.study.replay import Operation, State
from orchestrator.study.skim import skim
from orchestrator.study.study import Study
from orchestrator.watching.status import Status, read_status
from tests.recorded import BROAD, begun, fates, finished, read_by_optuna, space

METRIC = "val/knn_top1"


def everything_that_happens(results: Path) -> Path:
    """A sweep in which trials wait, go on, fail, are taken up again, and report epochs without a value."""
    folder, study = begun(results, space(results, BROAD))
    fates(study)
    study.report(study.take_up(study.trials[6]).number, 2, {METRIC: 0.7}, None)
    study.ask("search")
    return folder


def assert_read_as_by_optuna(folder: Path) -> None:
    storage = read_by_optuna(folder)
    (study,) = storage.get_all_studies()
    ours, theirs = read_study(folder, None), trials_of(storage, study.study_name)
    assert ours == theirs
    assert [(r.began, r.ended) for r in ours] == [(r.began, r.ended) for r in theirs]


def assert_told_alike(folder: Path) -> None:
    skimmed, whole = skim(folder, METRIC)[0], read_study(folder, None)
    assert [record.number for record in skimmed] == [record.number for record in whole]
    for short, full in zip(skimmed, whole, strict=True):
        assert str(short.last(METRIC)) == str(full.last(METRIC))  # as text, for NaN is like no other
        newest = max(full.reports, default=None)
        assert max(short.reports, default=None) == newest
        assert newest is None or short.facts[newest] == full.facts[newest]
        for name in ("role", "values", "retries", "notes", "halved", "parked", "held", "passed", "turn"):
            assert getattr(short, name) == getattr(full, name), (full.id, name)
        for name in ("outcome", "reason", "began", "ended"):
            assert getattr(short, name) == getattr(full, name), (full.id, name)


def test_whatever_happens_to_trials_is_told_as_by_the_whole_record(tmp_path: Path) -> None:
    folder = everything_that_happens(tmp_path)
    assert_told_alike(folder)
    assert_read_as_by_optuna(folder)


def test_a_finished_sweep_is_told_as_by_its_whole_record(tmp_path: Path) -> None:
    folder = finished(tmp_path, space(tmp_path, BROAD))
    assert_told_alike(folder)
    assert_read_as_by_optuna(folder)

    def told(status: Status) -> tuple[str, dict[str, object]]:
        return status.words(), status.data()

    assert told(read_status(folder, newest_only=True)) == told(read_status(folder))


def test_a_line_that_is_being_written_is_passed_over_at_every_length(tmp_path: Path) -> None:
    folder = everything_that_happens(tmp_path)
    journal = folder / JOURNAL
    content = journal.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    journal.write_bytes(content[:last])
    before = skim(folder, METRIC)
    for length in range(last + 1, len(content)):
        journal.write_bytes(content[:length])
        assert skim(folder, METRIC) == before


def test_a_journal_that_is_damaged_or_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such record"):
        skim(tmp_path, METRIC)
    (tmp_path / JOURNAL).write_text('{"op_code":8,"worker_id":"x","trial_id":3,"user_attr":{}}\n')
    with pytest.raises(ConfigError, match="cannot be read"):
        skim(tmp_path, METRIC)


def test_a_report_is_one_line_for_the_sampler_and_one_for_us_and_comes_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, study = begun(tmp_path, space(tmp_path, BROAD))
    record = study.ask("base", study.sweep.base_values())
    before = (folder / JOURNAL).read_bytes()
    monkeypatch.setattr("os.fsync", _fail)  # as of a disk that breaks
    with pytest.raises(OSError, match="broken"):
        study.report(record.number, 1, {METRIC: 0.5}, None)
    monkeypatch.undo()
    assert (folder / JOURNAL).read_bytes() == before
    assert not record.reports
    again = Study(folder, study.sweep, build_sampler(study.sweep))
    before = (folder / JOURNAL).read_bytes()
    again.report(record.number, 1, {METRIC: 0.5}, None)
    assert (folder / JOURNAL).read_bytes().count(b"\n") == before.count(b"\n") + 2
    assert again._study.get_trials()[0].intermediate_values == {1: 0.5}


def _fail(descriptor: int) -> None:
    raise OSError(5, "broken")


def test_lines_and_states_are_numbered_as_optuna_numbers_them() -> None:
    assert {one.name: one.value for one in State} == {one.name: one.value for one in TrialState}
    assert all(one.is_finished() == TrialState(one).is_finished() for one in State)
    assert all(one.value == JournalOperation[one.name] for one in Operation)


def test_a_trial_that_reports_late_without_a_value_keeps_the_newest_one_with_it(tmp_path: Path) -> None:
    folder, study = begun(tmp_path, space(tmp_path, BROAD))
    number = study.ask("search").number
    for epoch in (1, 2):
        study.report(number, epoch, {METRIC: epoch / 10}, None)
    for epoch in (3, 4):
        study.report(number, epoch, {"train/loss": 1.0}, None)
    ((record,), _) = skim(folder, METRIC)
    assert record.reports == {2: {METRIC: 0.2}, 4: {"train/loss": 1.0}}


def test_the_collector_works_again_after_a_record_has_been_read_or_could_not_be(tmp_path: Path) -> None:
    folder = everything_that_happens(tmp_path)
    skim(folder, METRIC)
    read_study(folder, None)
    (folder / JOURNAL).write_text("{}\n")
    with pytest.raises(ConfigError):
        read_study(folder, None)
    assert gc.isenabled()


def test_asking_how_a_sweep_stands_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    folder = everything_that_happens(tmp_path)
    code = (
        "import sys; from orchestrator.cli import main; main(sys.argv[1:]); "
        "print({'torch', 'ray', 'optuna', 'sqlalchemy', 'pydantic', 'numpy'} & set(sys.modules))"
    )
    finished(tmp_path, space(tmp_path, search={"algorithm": "random", "num_trials": 3, "time_budget": "9h"}))
    for words in (["status", folder.name], ["status", "tiny"], ["list"]):
        command = [sys.executable, "-c", code, *words, "--results", str(folder.parent)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        assert words[-1] in ("list", *found.stdout.partition(":")[:1])
        assert found.stdout.splitlines()[-1] == "set()"
