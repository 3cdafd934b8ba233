"""A journal skimmed: as read whole, but for the older reports."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.definition import JOURNAL
from orchestrator.replay import read_trials
from orchestrator.sampler import build_sampler
from orchestrator.skim import skim_trials
from orchestrator.space import ConfigError
from orchestrator.status import Status, read_status
from orchestrator.study import Study
from tests.recorded import BROAD, begun, finished, space

METRIC = "val/knn_top1"


def everything_that_happens(results: Path) -> Path:
    """A sweep in which trials wait, go on, fail, are taken up again, and report epochs without a value."""
    folder, study = begun(results, space(results, BROAD))
    study.ask("base", study.sweep.base_values())
    for number in range(6):
        record = study.ask("search")
        study.report(record.number, 1, {METRIC: 0.5 + number / 100, "train/loss": 1.0}, "epoch_00001.pt")
    study.report(1, 2, {"train/loss": 0.5}, "epoch_00002.pt")  # not evaluated
    study.park(2, 1)
    study.park(3, 1)
    study.promote(3)
    study.halve(4)
    study.note(4, "tried again")
    study.report(5, 2, {METRIC: float("nan")}, None, "no spread")
    study.end(5, "collapsed", "no spread")
    study.end(6, "failed", "out of memory")
    study.report(study.take_up(study.trials[6]).number, 2, {METRIC: 0.7}, None)
    study.ask("search")
    return folder


def assert_told_alike(folder: Path) -> None:
    skimmed, whole = skim_trials(folder, METRIC), read_trials(folder)
    assert [record.number for record in skimmed] == [record.number for record in whole]
    for short, full in zip(skimmed, whole, strict=True):
        assert str(short.last(METRIC)) == str(full.last(METRIC))  # as text, for NaN is like no other
        newest = max(full.reports, default=None)
        assert max(short.reports, default=None) == newest
        assert newest is None or short.facts[newest] == full.facts[newest]
        for name in ("role", "values", "retries", "notes", "halved", "parked", "passed", "turn"):
            assert getattr(short, name) == getattr(full, name), (full.id, name)
        for name in ("outcome", "reason", "began", "ended"):
            assert getattr(short, name) == getattr(full, name), (full.id, name)


def test_whatever_happens_to_trials_is_told_as_by_the_whole_record(tmp_path: Path) -> None:
    assert_told_alike(everything_that_happens(tmp_path))


def test_a_finished_sweep_is_told_as_by_its_whole_record(tmp_path: Path) -> None:
    folder = finished(tmp_path, space(tmp_path, BROAD))
    assert_told_alike(folder)

    def told(status: Status) -> tuple[str, dict[str, object]]:
        return status.words(), status.data()

    assert told(read_status(folder, newest_only=True)) == told(read_status(folder))


def test_a_line_that_is_being_written_is_passed_over_at_every_length(tmp_path: Path) -> None:
    folder = everything_that_happens(tmp_path)
    journal = folder / JOURNAL
    content = journal.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    journal.write_bytes(content[:last])
    before = skim_trials(folder, METRIC)
    for length in range(last + 1, len(content)):
        journal.write_bytes(content[:length])
        assert skim_trials(folder, METRIC) == before


def test_a_journal_that_is_damaged_or_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such record"):
        skim_trials(tmp_path, METRIC)
    (tmp_path / JOURNAL).write_text('{"op_code":8,"worker_id":"x","trial_id":3,"user_attr":{}}\n')
    with pytest.raises(ConfigError, match="cannot be read"):
        skim_trials(tmp_path, METRIC)


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


def test_asking_how_a_sweep_stands_imports_no_torch() -> None:
    code = "import sys, orchestrator.cli.status, orchestrator.status; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
