"""What a running sweep makes of reports, without processes that report."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.scale import opened
from orchestrator.engine.trial import Outcome
from orchestrator.running import SweepRun
from orchestrator.study.study import Study
from tests.recorded import space

Open = Callable[[], tuple[SweepRun, Study]]


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    """Opens the sweep in a folder, with a tracking server that is away."""
    sweep, runs = space(tmp_path, confirm={"top_k": 0}), []
    folder = tmp_path / "results" / sweep.config.name
    folder.mkdir(parents=True)

    def again() -> tuple[SweepRun, Study]:
        run, study = opened(folder, sweep)
        runs.append(run)
        return run, study

    yield again
    for run in runs:
        run.tracker.close(0.0)


def reported(run: SweepRun, task: dict[str, object], epoch: int, collapsed: str | None = None) -> bool:
    metrics = {run.study.metric: 0.5}
    outcome = Outcome(epoch, metrics, f"epoch_{epoch:05d}.pt", finished=False, collapsed=collapsed)
    return run.reported(task, outcome.result())


def test_an_epoch_that_is_run_again_and_then_collapses_ends_its_trial(open_: Open) -> None:
    run, study = open_()
    task = run.next_trial()
    assert isinstance(task, dict)
    run.started(task)
    assert reported(run, task, 1)
    assert not reported(run, task, 1, collapsed="no spread")
    assert (study.trials[0].outcome, study.trials[0].reason) == ("collapsed", "no spread")
    assert run.agenda.out() == []


def test_what_an_end_makes_superfluous_is_removed_though_the_process_died_before(open_: Open) -> None:
    run, study = open_()
    task = run.next_trial()
    assert isinstance(task, dict)
    run.started(task)
    for epoch in (1, 2):
        assert reported(run, task, epoch)
    folder = run.folder / "trials" / study.trials[0].id
    folder.mkdir(parents=True)
    for epoch in (1, 2):
        (folder / f"epoch_{epoch:05d}.pt").touch()
    study.end(0, "completed")
    open_()
    assert [file.name for file in folder.iterdir()] == ["epoch_00002.pt"]
