"""A disk without space, and files that were cut short."""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.search.sampler import build_sampler
from orchestrator.space import load_sweep
from orchestrator.storage.disk import Patience
from orchestrator.study.reading import read_study
from orchestrator.study.study import Study
from tests.faults.test_kills import require_as_untouched, told
from tests.workplace import SPACE, Workplace, end_session, records, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
SWEEP = SPACE | {
    "search": {"algorithm": "random", "num_trials": 1},
    "scheduler": {"type": "fifo", "max_epochs": 6},
    "resources": {"concurrency": 1},
}


def output_of(process: subprocess.Popen[str], log: Path) -> Callable[[str], Callable[[], bool]]:
    return lambda words: lambda: words in log.read_text()


def test_a_study_without_space_waits_and_keeps_whole_lines(workplace: Workplace) -> None:
    """No space for the next line of a study's journal (the kernel's limit on a file's size)."""
    sweep, folder = load_sweep(workplace.folder / "tiny.yaml"), workplace.folder / "results/tiny"
    folder.mkdir(parents=True)
    journal, before, said = folder / "study.journal", resource.getrlimit(resource.RLIMIT_FSIZE), []

    def pause(_: float) -> None:
        said.append(journal.read_bytes())
        if len(said) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    patience, told = Patience(pause), []
    patience.say = told.append
    study = Study(folder, sweep, build_sampler(sweep), patience)
    trial, whole = study.ask(), journal.read_bytes()
    # The next line fits in part: what is written of it must not stay.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 40, before[1]))
    try:
        study.report(trial.number, 1, {"val/knn_top1": 0.5}, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said == [whole] * 3
    assert [line.partition(":")[0] for line in told] == [
        "the sweep pauses until there is space",
        "there is space again",
    ]
    (found,) = read_study(folder, None)
    assert found.reports == {1: {"val/knn_top1": 0.5}}


@pytest.mark.slow
def test_a_sweep_without_space_pauses_and_goes_on(workplace: Workplace) -> None:
    """No space for the driver's files in the middle of a sweep (the kernel's limit on a file's size)."""
    workplace.write("tiny.yaml", SWEEP)
    process = workplace.start_sweep("tiny.yaml", output=workplace.folder / "log")
    said = output_of(process, workplace.folder / "log")
    journal = workplace.folder / "results/tiny/study.journal"
    try:
        wait_until(said("trial 0000 epoch 1"), process)
        # The next line fits in part: what is written of it must not stay.
        limit = journal.stat().st_size + 40
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        wait_until(said("the sweep pauses until there is space"), process)
        assert journal.read_bytes().endswith(b"\n")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        process.wait(timeout=200)
    finally:
        end_session(process)
    log = (workplace.folder / "log").read_text()
    assert process.returncode == 0, log
    assert "study.journal: File too large" in log
    assert "there is space again: the sweep goes on" in log
    for record in records(workplace):
        assert (record.outcome, list(record.reports)) == ("completed", list(range(1, 7)))


@pytest.mark.slow
def test_a_sweep_that_finds_no_space_at_its_start_can_be_begun_again(workplace: Workplace) -> None:
    """No space for the first files of a sweep, which is then given up."""
    workplace.write("tiny.yaml", SWEEP)
    process = workplace.start_sweep("tiny.yaml")
    # Room for the lock's one line, not for the definition, nor for the first lines of a journal.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
    assert process.stdout is not None
    try:
        assert any("the sweep pauses until there is space" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    finally:
        end_session(process)
        process.stdout.close()
    assert process.returncode == 130
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_full_file_system_pauses_a_sweep(workplace: Workplace) -> None:
    """The results on a small file system that is full (tmpfs in a mount namespace, ENOSPC)."""
    workplace.write("tiny.yaml", SWEEP)
    (workplace.folder / "results").mkdir()
    mount = 'mount -t tmpfs -o size=12m tmpfs results && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", *workplace.command("orchestrator.cli", "tiny.yaml")]
    process = workplace.start(command, output=workplace.folder / "log")
    said = output_of(process, workplace.folder / "log")
    inside = Path(f"/proc/{process.pid}/root{workplace.folder}/results")
    try:
        wait_until(said("trial 0000 epoch 1"), process)
        with (inside / "ballast").open("wb", buffering=0) as ballast:
            while True:
                try:
                    ballast.write(bytes(4096))
                except OSError:
                    break
        wait_until(said("until there is space"), process)
        (inside / "ballast").unlink()
        process.wait(timeout=250)
        log = (workplace.folder / "log").read_text()
        assert process.returncode == 0, log
        assert "No space left on device" in log
    finally:
        end_session(process)


@pytest.fixture(scope="module")
def ended(shared_workplace: Workplace) -> tuple[Path, list[dict[str, Any]]]:
    """The results of a sweep that has come to its end, and what it says of its trials."""
    shared_workplace.write("tiny.yaml", SWEEP)
    done = shared_workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    kept = shared_workplace.folder / "kept"
    shutil.copytree(shared_workplace.folder / "results", kept)
    return kept, told(shared_workplace)


@pytest.mark.slow
@pytest.mark.parametrize("tenth", [1, 5, 9])
@pytest.mark.parametrize(
    "name", ["study.journal", "tracking.jsonl", "tracking.cursor.json", "definition.json", "sweep.yaml"]
)
def test_a_file_cut_short_costs_only_what_is_run_again(
    shared_workplace: Workplace, ended: tuple[Path, list[dict[str, Any]]], name: str, tenth: int
) -> None:
    """A file of a finished sweep truncated."""
    workplace, (kept, untouched) = shared_workplace, ended
    results = workplace.folder / "results"
    shutil.rmtree(results)
    shutil.copytree(kept, results)
    path = results / "tiny" / name
    os.truncate(path, path.stat().st_size * tenth // 10)
    if name == "study.journal":
        done = workplace.sweep("tiny.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        found = [{k: v for k, v in record.items() if k != "notes"} for record in told(workplace)]
        assert found == [{k: v for k, v in record.items() if k != "notes"} for record in untouched]
    else:
        require_as_untouched(workplace, untouched)
