"""Trials whose processes hang, die or find no memory."""

import os
import resource
import signal

import psutil
import pytest

from tests.workplace import (
    SPACE,
    Workplace,
    end_session,
    learnt,
    records,
    require_none_running,
    trial_processes,
    uninterrupted,
    wait_for,
    wait_until,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
LONG = SPACE | {
    "search": {"algorithm": "random", "num_trials": 1},
    "scheduler": {"type": "fifo", "max_epochs": 8},
}


@pytest.mark.slow
def test_a_process_that_stands_still_is_killed_and_when_the_next_one_dies_the_trial_still_goes_on(
    workplace: Workplace,
) -> None:
    """A trial's process stopped by SIGSTOP, and the next one killed."""
    limits = {"concurrency": 1, "trial_timeout": 15}
    workplace.write("tiny.yaml", LONG | {"resources": limits})
    process = workplace.start_sweep("tiny.yaml")
    try:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 2', process)
        (hung,) = trial_processes(process)
        os.kill(hung.pid, signal.SIGSTOP)
        others: list[psutil.Process] = []

        def another() -> bool:
            others[:] = [one for one in trial_processes(process) if one != hung]
            return others != []

        wait_until(another, process)
        others[0].kill()
        output, _ = process.communicate(timeout=200)
    finally:
        end_session(process)
    assert process.returncode == 0, output
    assert not hung.is_running()
    found = records(workplace)
    for record in found:
        assert record.outcome == "completed"
        assert [f"trial {record.id} {note}" in output for note in record.notes] == [True] * len(record.notes)
        kept = uninterrupted(workplace, record)
        assert [{k: m[k] for k in kept[0]} for m in map(learnt, record.reports.values())] == kept
    # Of one trial, or of two where the first had ended before its process was stopped.
    still, dead = [note for record in found for note in record.notes]
    assert still == "reported nothing for 15 s and was killed; tried again"
    assert dead.endswith("; tried again")


@pytest.mark.slow
def test_a_trial_that_fails_for_good_is_put_back_by_retry(workplace: Workplace) -> None:
    """A trial's process stopped by SIGSTOP with max_failures 0, then `retry --failed`."""
    limits = {"concurrency": 1, "trial_timeout": 15, "max_failures": 0}
    workplace.write("tiny.yaml", LONG | {"resources": limits})
    process = workplace.start_sweep("tiny.yaml")
    try:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 2', process)
        (worker,) = trial_processes(process)
        os.kill(worker.pid, signal.SIGSTOP)
        output, _ = process.communicate(timeout=200)
    finally:
        end_session(process)
    assert process.returncode in (1, 3), output
    (failed,) = [record for record in records(workplace) if record.outcome == "failed"]
    assert failed.reason == "reported nothing for 15 s and was killed"
    done = workplace.sweep("retry", "tiny", "--failed")
    assert done.returncode == 0, done.stdout + done.stderr
    (again,) = [record for record in records(workplace) if record.retries == failed.number]
    assert (again.role, again.outcome) == (failed.role, "completed")
    kept = uninterrupted(workplace, again)
    assert [{k: m[k] for k in kept[0]} for m in map(learnt, again.reports.values())] == kept
    assert f"failed, taken up as {again.id}" in workplace.sweep("status", "tiny").stdout


@pytest.mark.slow
def test_a_process_without_memory_is_named_and_its_trial_goes_on(workplace: Workplace) -> None:
    """A trial's process with no more address space (RLIMIT_AS)."""
    workplace.write("tiny.yaml", LONG | {"resources": {"concurrency": 1}})
    process = workplace.start_sweep("tiny.yaml")
    try:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 2', process)
        (worker,) = trial_processes(process)
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (2**20, resource.RLIM_INFINITY))
        output, _ = process.communicate(timeout=200)
    finally:
        end_session(process)
    assert process.returncode == 0, output
    assert {record.outcome for record in records(workplace)} == {"completed"}
    assert any(record.notes for record in records(workplace)), output


@pytest.mark.slow
def test_a_sweep_whose_ray_dies_says_how_to_go_on(workplace: Workplace) -> None:
    """SIGKILL of the control store of the sweep's own Ray."""
    workplace.write("tiny.yaml", LONG)
    process = workplace.start_sweep("tiny.yaml")
    try:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 2', process)
        (store,) = [p for p in psutil.Process(process.pid).children() if p.name() == "gcs_server"]
        store.kill()
        output, _ = process.communicate(timeout=30)
    finally:
        end_session(process)
    assert process.returncode == 1, output
    assert (
        "Ray's gcs_server has died; what was reported is kept. Go on with:\n  hjepa-sweep tiny.yaml" in output
    )
    require_none_running(workplace)
    again = workplace.sweep("tiny.yaml")
    assert again.returncode == 0, again.stdout + again.stderr
    assert [record.outcome for record in records(workplace)] == ["completed", "completed"]
