"""Sweeps that are interrupted, killed and extended, and gone on with by the same command."""

import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.search.sampler import build_sampler
from orchestrator.space import load_sweep
from orchestrator.study.study import Study
from tests.workplace import (
    SPACE,
    TINY,
    Workplace,
    children,
    end_session,
    mlflow_runs,
    records,
    require_none_running,
    sweep_to_kill,
    wait_for,
    wait_until,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
LONG = SPACE | {
    "search": {"algorithm": "random", "num_trials": 2},
    "scheduler": {"type": "fifo", "max_epochs": 6},
}
# One of its trials comes to no number.
FAILING = SPACE | {
    "space": {"training.lr": {"choice": [1e-3, 1e30]}},
    "search": {"algorithm": "grid"},
    "scheduler": {"type": "fifo", "max_epochs": 8},
    "resources": {"concurrency": 1},
}
Ended = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Story:
    """A sweep that Ctrl-C stops in its first trials, and a kill while it writes its answer."""

    workplace: Workplace
    stopped: Ended
    reported: bool
    """Whether the report was there when the driver was killed, with the best config already written."""
    done: Ended
    told: bytes
    """What MLflow had been sent by then."""
    repeated: Ended

    @property
    def folder(self) -> Path:
        return self.workplace.folder / "results/tiny"


@pytest.fixture(scope="module")
def story(shared_workplace: Workplace) -> Story:
    workplace, folder = shared_workplace, shared_workplace.folder / "results/tiny"
    workplace.env["HJEPA_REPORT"] = "on"
    workplace.write(
        "base.yaml", TINY | {"training": TINY["training"] | {"optimizer": "sgd", "clip_grad": None}}
    )
    workplace.write("a space.yaml", FAILING)
    process = workplace.start_sweep("a space.yaml")
    try:
        wait_for(folder / "trials/0000/metrics.jsonl", '"epoch": 1', process)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to everyone in the foreground
        output, _ = process.communicate(timeout=120)
    finally:
        end_session(process)
    stopped = Ended([], process.returncode, output)
    require_none_running(workplace)
    (command,) = [line.strip() for line in output.splitlines() if line.startswith("  hjepa-sweep")]
    again = shlex.split(command)[1:]

    with sweep_to_kill(workplace, *again) as process:
        wait_until((folder / "best.yaml").exists, process)
    require_none_running(workplace)  # the drainer delivers what there is
    reported = (folder / "report/index.html").exists()
    done = workplace.sweep(*again)
    told = (folder / "tracking.jsonl").read_bytes()
    return Story(workplace, stopped, reported, done, told, workplace.ask(*again))


def test_ctrl_c_leaves_a_sweep_that_the_same_command_goes_on_with(story: Story) -> None:
    assert story.stopped.returncode == 130, story.stopped.stdout
    assert "Traceback" not in story.stopped.stdout
    for record in records(story.workplace):
        assert record.outcome == "failed" or list(record.reports) == list(range(1, 9))


def test_one_failing_trial_ends_neither_the_sweep_nor_its_good_name(story: Story) -> None:
    assert story.done.returncode == 3, story.done.stdout + story.done.stderr
    found = {record.values.get("training.lr"): record for record in records(story.workplace)}
    assert found[1e30].outcome == "failed"
    assert "at step" in found[1e30].reason
    assert found[1e-3].outcome == "completed"
    assert children(story.workplace)[found[1e30].id].info.status == "FAILED"


def test_an_answer_that_a_kill_cut_short_is_written_again_and_only_then_repeated(story: Story) -> None:
    """The driver died with the best config written and the report not."""
    assert not story.reported
    assert (story.folder / "report/index.html").exists()
    assert {run.info.status for run in mlflow_runs(story.workplace)} == {"FINISHED", "FAILED"}
    assert story.repeated.returncode == 3, story.repeated.stdout + story.repeated.stderr
    assert (story.folder / "tracking.jsonl").read_bytes() == story.told


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_every_trial_and_loses_no_report(workplace: Workplace) -> None:
    workplace.write("tiny.yaml", LONG)
    with sweep_to_kill(workplace, "tiny.yaml") as process:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 2', process)
    before = records(workplace)
    assert before
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    after = {record.number: record for record in records(workplace)}
    for record in before:
        for epoch, metrics in record.reports.items():
            assert after[record.number].reports[epoch] == metrics
    assert len(after) == 3
    assert all(list(record.reports) == list(range(1, 7)) for record in after.values())
    # What there is to compare with is measured once, whatever comes between.
    assert [epoch for epoch, found in after[0].reports.items() if "random_init/knn_top1" in found] == [1]
    runs = children(workplace)
    assert set(runs) == {record.id for record in after.values()}
    assert {run.info.status for run in mlflow_runs(workplace)} == {"FINISHED"}


@pytest.mark.slow
def test_what_follows_from_a_last_report_is_made_up_for_after_a_crash(workplace: Workplace) -> None:
    """The base had reported its last epoch, and a weak trial a rung, when the process died."""
    sweep = load_sweep(workplace.folder / "tiny.yaml")
    folder = workplace.folder / "results/tiny"
    assert workplace.sweep("tiny.yaml", "--trials", "1").returncode == 0
    study = Study(folder, sweep, build_sampler(sweep))
    weak, done = study.ask().number, study.ask().number
    study.report(weak, 1, {"val/knn_top1": 0.01}, "epoch_00001.pt")
    for epoch in (1, 2, 3):
        study.report(done, epoch, {"val/knn_top1": 0.2}, f"epoch_{epoch:05d}.pt")
    again = workplace.sweep("tiny.yaml", "--trials", "3")
    assert again.returncode == 0, again.stdout + again.stderr
    after = {record.number: record for record in records(workplace)}
    assert (after[weak].outcome, list(after[weak].reports)) == ("pruned", [1])
    assert (after[done].outcome, list(after[done].reports)) == ("completed", [1, 2, 3])
    assert {run.info.status for run in mlflow_runs(workplace)} == {"FINISHED"}


@pytest.mark.slow
def test_the_answer_of_a_sweep_that_was_extended_is_not_taken_for_its_new_one(workplace: Workplace) -> None:
    """The driver dies once the new trial is over, before it has written who is best by now."""
    sweep = load_sweep(workplace.folder / "tiny.yaml", trials=2)
    folder = workplace.folder / "results/tiny"
    assert workplace.sweep("tiny.yaml", "--trials", "1").returncode == 0
    study = Study(folder, sweep, build_sampler(sweep))
    better = study.ask()
    for epoch in (1, 2, 3):
        study.report(better.number, epoch, {"val/knn_top1": 0.99}, None)
    study.end(better.number, "completed")
    done = workplace.sweep("tiny.yaml", "--trials", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"best seen: trial {better.id}" in done.stdout
    assert "val/knn_top1 0.99" in (folder / "best.yaml").read_text()
