"""What a running sweep makes of reports, without processes that report."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import opened
from orchestrator.engine.trial import Outcome
from orchestrator.running import LOOKED_AT, SweepRun
from orchestrator.space import Sweep
from orchestrator.study.record import rank
from orchestrator.study.study import Study
from orchestrator.sweep import opening
from orchestrator.watching import progress
from orchestrator.watching.status import read_status
from tests.recorded import begun, space

Open = Callable[..., tuple[SweepRun, Study]]
HOUR_S = 3600.0


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    """Opens the sweep in a folder, with a tracking server that is away."""
    usual, runs = space(tmp_path, confirm={"top_k": 0}), []

    def again(sweep: Sweep = usual) -> tuple[SweepRun, Study]:
        folder = tmp_path / "results" / sweep.config.name
        folder.mkdir(parents=True, exist_ok=True)
        run, study = opened(folder, sweep)
        runs.append(run)
        return run, study

    yield again
    for run in runs:
        run.tracker.close(0.0)


def reported(run: SweepRun, task: dict[str, object], epoch: int, **told: Any) -> bool:
    metrics = {run.study.metric: 0.5}
    outcome = Outcome(epoch, metrics, f"epoch_{epoch:05d}.pt", finished=False, **told)
    return run.reported(task, outcome.result())


def begin(run: SweepRun) -> dict[str, Any]:
    """The next trial, begun."""
    task = run.next_trial()
    assert isinstance(task, dict)
    run.started(task)
    return task


def run_base(run: SweepRun, **told: Any) -> None:
    task = begin(run)
    for epoch in (1, 2, 3):
        assert reported(run, task, epoch, **told) == (epoch < 3)


def test_an_epoch_that_is_run_again_and_then_collapses_ends_its_trial(open_: Open) -> None:
    run, study = open_()
    task = begin(run)
    assert reported(run, task, 1)
    assert not reported(run, task, 1, collapsed="no spread")
    assert (study.trials[0].outcome, study.trials[0].reason) == ("collapsed", "no spread")
    assert run.agenda.out() == []


def test_what_an_end_makes_superfluous_is_removed_though_the_process_died_before(open_: Open) -> None:
    run, study = open_()
    task = begin(run)
    for epoch in (1, 2):
        assert reported(run, task, epoch)
    folder = run.folder / "trials" / study.trials[0].id
    folder.mkdir(parents=True)
    for epoch in (1, 2):
        (folder / f"epoch_{epoch:05d}.pt").touch()
    study.end(0, "completed")
    open_()
    assert [file.name for file in folder.iterdir()] == ["epoch_00002.pt"]


def test_what_is_told_twice_of_a_trial_that_waits_is_noted_once(open_: Open) -> None:
    """As Tune does it with the report by which a trial was stopped."""
    run, study = open_()
    run_base(run)
    task = begin(run)
    assert not reported(run, task, 1, notes=("goes on after epoch 0: torn",))
    assert not reported(run, task, 1, notes=("goes on after epoch 0: torn",))
    assert (study.trials[1].parked, study.trials[1].notes) == (1, ["goes on after epoch 0: torn"])


def test_why_an_epoch_is_run_again_is_noted(open_: Open) -> None:
    run, study = open_()
    assert reported(run, begin(run), 1)
    again, study = open_()
    assert reported(again, begin(again), 1, notes=("goes on after epoch 0: torn",))
    assert study.trials[0].notes[-1] == "goes on after epoch 0: torn"


def test_a_trial_without_a_process_is_told_to_wait_until_it_goes_on(
    open_: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where the last node is lost, and the sweep waits for another one."""
    monkeypatch.setattr(progress, "HEARTBEAT_S", 1.1)
    run, study = open_()

    def told() -> str:
        """The next line of where nothing happens."""
        capsys.readouterr()
        while "] " not in (text := capsys.readouterr().out):  # a line's end is written by itself
            time.sleep(0.05)
        return text.partition("] ")[2]

    with progress.Lines(study.metric, 3, run.counts) as run.progress:
        task = begin(run)
        assert reported(run, task, 1)
        assert told().startswith("running: 0000 after epoch 1; 0 of ")
        run.crashed(task, "ray.exceptions.ActorDiedError: The node was terminated")
        assert told().startswith("running: no trial; waiting for a place: 0000 after epoch 1; 0 of ")
        assert run.status().line().startswith("running, 0 of ")
        assert "(1 waiting)" in run.status().line()
        begin(run)
        assert told().startswith("running: 0000 after epoch 1; 0 of ")
        assert "(1 running)" in run.status().line()


def in_budget(folder: Path, hours: float) -> Sweep:
    search = {"algorithm": "random", "num_trials": 2, "cost_budget": hours}
    scheduler = {"type": "fifo", "max_epochs": 3}
    return space(folder, search=search, scheduler=scheduler, confirm={"top_k": 0})


@pytest.mark.parametrize("killed", [False, True])
def test_a_trial_that_a_budget_holds_up_is_ranked_until_it_goes_on(
    tmp_path: Path, open_: Open, killed: bool
) -> None:
    """The budget is used up with its second epoch of three; or the process dies before it knows."""
    sweep = in_budget(tmp_path, 4.5)
    run, study = open_(sweep)
    run_base(run, seconds=HOUR_S)
    task = begin(run)
    assert reported(run, task, 1, seconds=HOUR_S)
    if killed:
        study.report(1, 2, {study.metric: 0.5}, "epoch_00002.pt", seconds=HOUR_S)
        run, study = open_(sweep)
    else:
        assert not reported(run, task, 2, seconds=HOUR_S, notes=("cold",))
        assert not reported(run, task, 2, seconds=HOUR_S, notes=("cold",))
        assert study.trials[1].notes == ["cold"]
    assert not isinstance(run.next_trial(), dict)
    for known in (study, open_(sweep)[1]):
        assert [record.number for record in known.best_found(2)] == [1]
        assert [record.number for record in rank(known.trials.values(), known.metric, "max")] == [0, 1]
    status = read_status(run.folder)
    assert [status.state_of(record) for record in status.trials] == ["completed", "held"]

    run, study = open_(in_budget(tmp_path, 20))
    assert reported(run, begin(run), 3) is False
    assert (study.trials[1].outcome, study.trials[1].held) == ("completed", False)
    begin(run)
    run, study = open_(in_budget(tmp_path, 20))
    assert study.best_found(2) == [study.trials[1]], "what goes on is not ranked on its way"


def test_the_fresh_seeds_of_finalists_before_and_after_a_sweep_was_extended_are_counted(
    tmp_path: Path, open_: Open
) -> None:
    """And those of a sweep that was cut down."""

    for trials, over in ((1, 6), (2, 9), (1, 9)):
        run, _ = open_(confirmed(tmp_path, num_trials=trials))
        run_all(run)
        assert run.counts.words() == f"{over} of {over} trials over: {over} completed"


def confirmed(folder: Path, **search: Any) -> Sweep:
    """A sweep of trials of one epoch, of which the best is run again."""
    fifo = {"type": "fifo", "max_epochs": 1}
    search = {"algorithm": "random", **search}
    return space(folder, search=search, scheduler=fifo, confirm={"top_k": 1, "seeds": 2})


def run_all(run: SweepRun) -> None:
    """Of trials of one epoch, which takes an hour; the newest is the best."""
    while isinstance(task := run.next_trial(), dict):
        run.started(task)
        value = {run.study.metric: len(run.study.trials) / 100}
        assert not run.reported(task, Outcome(1, value, None, finished=True, seconds=HOUR_S).result())
        assert run.purse.left() == read_status(run.folder).left()


def test_a_raised_budget_has_the_fresh_seeds_of_the_new_finalist_in_it(tmp_path: Path, open_: Open) -> None:
    for hours in (10, 20):
        run, study = open_(confirmed(tmp_path, num_trials=100, cost_budget=hours))
        run_all(run)
        (best,) = study.best_found(1)
        assert {(best.number, 43), (best.number, 44)} <= study.rerun
        assert hours - 1 <= run.purse.ledger.spent().worker_hours <= hours


def test_what_a_trial_reports_after_it_was_held_up_counts(tmp_path: Path, open_: Open) -> None:
    """Tune asks for trials ahead of a free place, and its process has begun."""
    run, study = open_(in_budget(tmp_path, 3.5))
    run_base(run, seconds=HOUR_S)
    first, ahead = begin(run), run.next_trial()
    assert not reported(run, first, 1, seconds=HOUR_S)
    assert isinstance(ahead, dict)
    run.started(ahead)
    assert study.trials[2].held
    assert not reported(run, ahead, 1, seconds=HOUR_S)
    assert study.best_found(2) == [study.trials[1], study.trials[2]]
    assert [record.number for record in rank(study.trials.values(), study.metric, "max")] == [0, 1, 2]


def test_a_trial_that_comes_to_a_rung_after_it_was_held_up_waits_there_only(
    tmp_path: Path, open_: Open
) -> None:
    """Were it among those that go on with a raised budget too, no trial that waits could be given up."""
    search = {"algorithm": "random", "num_trials": 2, "cost_budget": 3.5}
    run, study = open_(space(tmp_path, search=search, confirm={"top_k": 0}))
    run_base(run, seconds=HOUR_S)
    first, ahead = begin(run), run.next_trial()
    assert not reported(run, first, 1, seconds=HOUR_S)
    assert isinstance(ahead, dict)
    run.started(ahead)
    weak = Outcome(1, {study.metric: 0.4}, None, finished=False, seconds=HOUR_S)
    assert not run.reported(ahead, weak.result())
    assert [(study.trials[number].parked, study.trials[number].held) for number in (1, 2)] == [(1, False)] * 2
    assert not run.agenda.waiting


def test_a_sweep_that_goes_on_looks_for_what_was_left_in_a_store_little_by_little(
    tmp_path: Path, open_: Open
) -> None:
    store = tmp_path / "store"
    sweep = space(tmp_path, confirm={"top_k": 0}, resources={"checkpoints": store.as_uri()})
    _, study = open_(sweep)
    study.ask("base", sweep.base_values())
    study.report(0, 3, {study.metric: 0.5}, "epoch_00003.pt")
    study.end(0, "completed")
    run, study = open_(sweep)
    assert run.depot is not None
    for number in range(4):
        if number:
            study.ask()
            study.report(number, 1, {study.metric: 0.1}, "epoch_00001.pt")
        left = Path(run.depot.store.path) / "trials" / study.trials[number].id
        left.mkdir(parents=True)
        (left / "epoch_00001.pt").touch()
    ended: dict[int, str] = dict.fromkeys((1, 2, 3), "weak")
    study.end_all(ended, "pruned")

    def there() -> int:
        return len(list(store.glob("*/trials/*/*.pt")))

    run, study = open_(sweep)
    assert there() == 4
    assert not reported(run, begin(run), 1, collapsed="no spread")
    assert there() == 4 - (LOOKED_AT - 1), "one of them is its own"
    assert run.depot is not None
    run.depot.tidy()
    assert there() == 0


def test_a_sweep_that_goes_on_says_how_many_of_all_its_runs_are_over(tmp_path: Path) -> None:
    sweep = space(tmp_path, confirm={"top_k": 1, "seeds": 2})
    _, study = begun(tmp_path / "results", sweep)
    assert " trials, the base config and 4 runs with fresh seeds, " in opening(sweep, study)
    study.end(study.ask("base", sweep.base_values()).number, "failed", "out of memory")
    study.end(study.take_up(study.trials[0]).number, "completed")
    assert " fresh seeds, 1 of them over already, " in opening(sweep, study)
    alone = space(tmp_path, confirm={"top_k": 0})
    assert f"{alone.num_trials} trials and the base config, 1 of them" in opening(alone, study)
