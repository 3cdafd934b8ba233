import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.definition import JOURNAL
from orchestrator.process.lock import exclusive
from orchestrator.search.sampler import build_sampler
from orchestrator.space import ConfigError, Sweep, load_sweep
from orchestrator.study.holder import SweepLock
from orchestrator.study.reading import read_study
from orchestrator.study.record import rank, standing
from orchestrator.study.study import Study
from tests.workplace import SPACE, TINY


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SPACE))
    return load_sweep(tmp_path / "tiny.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


def opened(folder: Path, sweep: Sweep) -> Study:
    return Study(folder, sweep, build_sampler(sweep))


def knn(value: float) -> dict[str, float]:
    return {"val/knn_top1": value, "train/loss": 1.0}


def test_a_reopened_study_holds_every_trial_and_report(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    base = study.ask("base", sweep.base_values())
    first, second = study.ask(), study.ask()
    study.report(base.number, 1, knn(0.5), "epoch_1.pt")
    study.report(first.number, 1, knn(0.6), "epoch_1.pt")
    study.report(first.number, 2, knn(0.7), "epoch_2.pt")
    study.end(first.number, "pruned", "place 2 of 2")
    study.end(base.number, "completed")

    again = opened(folder, sweep)
    assert again.id == study.id
    assert again.trials == study.trials
    assert [record.number for record in again.unfinished()] == [second.number]
    assert again.trials[first.number].checkpoint == "epoch_2.pt"
    assert again.trials[first.number].reports == {1: knn(0.6), 2: knn(0.7)}


def test_an_unfinished_trial_goes_on_under_its_number(folder: Path, sweep: Sweep) -> None:
    number = opened(folder, sweep).ask().number
    again = opened(folder, sweep)
    again.report(number, 1, knn(0.4), None)
    again.end(number, "completed")
    assert opened(folder, sweep).trials[number].outcome == "completed"


def test_an_epoch_reported_twice_stands_once_with_its_first_values(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    number = study.ask().number
    study.report(number, 1, knn(0.4), "a.pt")
    study.report(number, 1, knn(0.9), "b.pt")
    assert opened(folder, sweep).trials[number].reports == {1: knn(0.4)}


@pytest.mark.parametrize("outcome", ["completed", "pruned", "collapsed", "failed"])
def test_outcomes_are_told_apart_after_reopening(folder: Path, sweep: Sweep, outcome: Any) -> None:
    study = opened(folder, sweep)
    number = study.ask().number
    study.report(number, 1, knn(0.4), None)
    study.end(number, outcome, "because")
    record = opened(folder, sweep).trials[number]
    assert (record.outcome, record.reason) == (outcome, "because")


def test_a_trial_pruned_without_a_value_does_not_break_the_sampler(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    study.end(study.ask().number, "pruned")
    assert study.ask().values


def test_the_base_keeps_its_own_values(folder: Path, sweep: Sweep) -> None:
    base = opened(folder, sweep).ask("base", sweep.base_values())
    assert base.values == {"model.fpn.use_fpn": False, "training.lr": 1e-3}
    assert sweep.resolve(base.values) == sweep.base


def test_a_base_outside_the_space_is_recorded_without_values(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    assert study.ask("base", None).values == {}
    assert opened(folder, sweep).base() == study.base()


def test_the_ranking_prefers_longer_trials_then_better_ones(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    short, weak, strong, failed = (study.ask().number for _ in range(4))
    study.report(short, 1, knn(0.99), None)
    study.end(short, "pruned")
    for number, value in ((weak, 0.5), (strong, 0.6), (failed, 0.9)):
        study.report(number, 3, knn(value), None)
    study.end(weak, "completed")
    study.end(strong, "completed")
    study.end(failed, "failed")
    assert [record.number for record in rank(study.trials.values(), study.metric, "max")] == [
        strong,
        weak,
        short,
    ]


def test_trials_that_end_alike_are_closed_in_one_write_or_none_is(
    folder: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(folder, sweep)
    weak = [study.ask().number for _ in range(5)]
    for number in weak:
        study.report(number, 1, knn(number / 10), None)
        study.park(number, 1)
    before, waits, fsync = (folder / JOURNAL).read_bytes(), [], os.fsync
    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", _fail)
        with pytest.raises(OSError, match="broken"):
            opened(folder, sweep).end_all(dict.fromkeys(weak, "last"), "pruned")
    assert (folder / JOURNAL).read_bytes() == before
    monkeypatch.setattr("os.fsync", lambda file: (waits.append(file), fsync(file)))
    study.end_all({number: f"place {number}" for number in weak}, "pruned")
    assert len(waits) == 1
    again = opened(folder, sweep)
    assert [(r.outcome, r.reason) for r in again.trials.values()] == [
        ("pruned", f"place {number}") for number in weak
    ]
    assert [trial.value for trial in again._study.get_trials()] == [number / 10 for number in weak]
    assert again.trials == study.trials


def _fail(descriptor: int) -> None:
    raise OSError(5, "broken")


def test_the_best_that_the_search_found_are_told_without_the_base(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    study.ask("base", sweep.base_values())
    for value in (0.9, 0.3, 0.7, 0.5):
        number = len(study.trials) - 1 if value == 0.9 else study.ask().number
        study.report(number, 3, knn(value), None)
        study.end(number, "completed")
    for found in (study, opened(folder, sweep)):
        assert [record.number for record in found.best_found(2)] == [2, 3]
        assert [record.number for record in found.best_found(9)] == [2, 3, 1]


def test_reruns_are_linked_to_what_they_confirm_and_do_not_rank(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    first = study.ask()
    again = study.ask_again(first, seed=43)
    study.report(again.number, 3, knn(0.9), None)
    study.end(again.number, "completed")
    record = opened(folder, sweep).trials[again.number]
    assert (record.confirms, record.seed, record.values) == (first.number, 43, first.values)
    assert rank(study.trials.values(), study.metric, "max") == []


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_an_interrupted_study_proposes_what_it_would_have_proposed(
    tmp_path: Path, sweep: Sweep, algorithm: str
) -> None:
    search = sweep.config.search.model_copy(update={"algorithm": algorithm})
    sweep = replace(sweep, config=sweep.config.model_copy(update={"search": search}))

    def proposals(folder: Path, reopened: bool) -> list[dict[str, Any]]:
        study, found = opened(folder, sweep), []
        for i in range(14):  # TPE begins to learn after ten
            record = study.ask()
            study.report(record.number, 1, knn(1 / (i + 1)), None)
            study.end(record.number, "completed")
            found.append(record.values)
            study = opened(folder, sweep) if reopened else study
        return found

    whole = proposals(tmp_path / "whole", reopened=False)
    assert whole == proposals(tmp_path / "pieces", reopened=True)
    assert len({json.dumps(values) for values in whole}) == 14


def test_a_trial_whose_asking_was_cut_short_keeps_its_number_and_values(tmp_path: Path, sweep: Sweep) -> None:
    whole = opened(tmp_path / "whole", sweep)
    expected = [whole.ask() for _ in range(3)]
    study = opened(tmp_path / "cut", sweep)
    study.ask()
    study._study.ask().suggest_categorical("model.fpn.use_fpn", ["true", "false"])  # and the process dies
    again = opened(tmp_path / "cut", sweep)
    assert [again.ask() for _ in range(2)] == expected[1:]


def test_a_base_cut_short_is_not_run_twice(folder: Path, sweep: Sweep) -> None:
    """Its values, its role and its number are one write."""
    opened(folder, sweep).ask("base", sweep.base_values())
    before = (folder / "study.journal").read_bytes()
    journal = before[: before.rstrip(b"\n").rfind(b"\n") + 1]
    (folder / "study.journal").write_bytes(journal + before[len(journal) : -30])
    study = opened(folder, sweep)
    assert study.base() is None
    assert study.ask("base", sweep.base_values()).number == 0
    assert study.ask().role == "search"
    assert len(opened(folder, sweep).trials) == 2


def test_a_failed_trial_is_taken_up_with_what_it_reported(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    failed = study.ask()
    for epoch in (1, 2):
        study.report(failed.number, epoch, knn(epoch / 10), f"epoch_{epoch:05d}.pt")
    study.end(failed.number, "failed", "its process died")
    again = study.take_up(failed)
    assert opened(folder, sweep).trials == study.trials
    assert (again.reports, again.values, again.outcome) == (failed.reports, failed.values, None)
    assert (again.retries, again.checkpoint) == (failed.number, "epoch_00002.pt")
    assert standing(study.trials.values()) == [again]
    study.report(again.number, 3, knn(0.5), None)
    study.end(again.number, "completed")
    assert study.best() == again


def test_a_study_is_read_while_it_is_written(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    study.ask("base", sweep.base_values())
    study.ask()
    study.report(1, 1, knn(0.5), "epoch_00001.pt")
    before = (folder / "study.journal").read_bytes()
    with (folder / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code": 8, "worker')  # a writer in the middle of its line
    with exclusive(folder / "study.lock"):
        assert read_study(folder, None) == list(study.trials.values())
    assert (folder / "study.journal").read_bytes().startswith(before)


def test_equal_seeds_propose_equal_values(tmp_path: Path, sweep: Sweep) -> None:
    one, two = opened(tmp_path / "one", sweep), opened(tmp_path / "two", sweep)
    assert [one.ask().values for _ in range(5)] == [two.ask().values for _ in range(5)]


def test_what_a_killed_process_reported_is_there(folder: Path, sweep: Sweep) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from orchestrator.search.sampler import build_sampler\n"
        "from orchestrator.space import load_sweep\n"
        "from orchestrator.study.study import Study\n"
        "sweep = load_sweep(sys.argv[1]); study = Study(Path(sys.argv[2]), sweep, build_sampler(sweep))\n"
        "number = study.ask().number\n"
        "study.report(number, 1, {'val/knn_top1': 0.5}, 'epoch_1.pt')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sweep.path), str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    (record,) = opened(folder, sweep).unfinished()
    assert record.reports == {1: {"val/knn_top1": 0.5}}
    assert record.checkpoint == "epoch_1.pt"


def test_a_process_killed_in_the_middle_of_a_write_leaves_no_lock(folder: Path, sweep: Sweep) -> None:
    opened(folder, sweep).ask()
    code = (
        "import os, sys; from pathlib import Path; from orchestrator.study.journal import JournalLock\n"
        "JournalLock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "study.lock")], check=False)
    assert len(opened(folder, sweep).unfinished()) == 1


def test_a_half_written_last_line_costs_only_itself(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    number = study.ask().number
    study.report(number, 1, knn(0.5), "a.pt")
    whole = (folder / "study.journal").read_bytes()
    study.report(number, 2, knn(0.6), "b.pt")
    journal = folder / "study.journal"
    journal.write_bytes(journal.read_bytes()[: len(whole) + 20])
    again = opened(folder, sweep)
    assert again.trials[number].reports == {1: knn(0.5)}
    again.report(number, 2, knn(0.7), "b.pt")
    assert opened(folder, sweep).trials[number].reports == {1: knn(0.5), 2: knn(0.7)}


def test_a_report_that_was_not_told_to_the_sampler_is_told_on_opening(folder: Path, sweep: Sweep) -> None:
    """The process, or the machine, died between the report and its value for the sampler."""
    study = opened(folder, sweep)
    number = study.ask().number
    study.report(number, 1, knn(0.4), "epoch_1.pt")
    journal = folder / JOURNAL
    *before, value = journal.read_bytes().splitlines(keepends=True)
    assert b'"intermediate_value":0.4' in value
    journal.write_bytes(b"".join(before) + value[:-9])
    for _ in range(2):
        again = opened(folder, sweep)
        assert again.trials[number].reports == {1: knn(0.4)}
        (seen,) = again._study.get_trials()
        assert seen.intermediate_values == {1: 0.4}
    assert journal.read_bytes().count(b'"intermediate_value":') == 1


def test_an_end_that_was_not_told_to_the_sampler_is_told_on_opening(folder: Path, sweep: Sweep) -> None:
    study = opened(folder, sweep)
    number = study.ask().number
    study.report(number, 1, knn(0.5), None)
    # What `end` writes first; the process dies before the rest.
    study._open[number].set_user_attr("end", {"outcome": "pruned", "reason": "place 2 of 2"})
    again = opened(folder, sweep)
    assert again.unfinished() == []
    assert again.trials[number].outcome == "pruned"
    assert opened(folder, sweep).trials == again.trials


def test_a_second_holder_of_the_lock_is_refused_by_name(tmp_path: Path) -> None:
    lock = SweepLock(tmp_path)
    with pytest.raises(ConfigError, match=rf"running already: process {os.getpid()} on .* since"):
        SweepLock(tmp_path)
    lock.release()
    SweepLock(tmp_path).release()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from orchestrator.study.holder import SweepLock\n"
        "lock = SweepLock(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    SweepLock(tmp_path).release()
