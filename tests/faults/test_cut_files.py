"""Every file of a sweep cut short, at each tenth of its length."""

import os
import shutil
from pathlib import Path

import pytest

from orchestrator.definition import require_same_sweep, write_definition
from orchestrator.process.lock import exclusive
from orchestrator.search.sampler import build_sampler
from orchestrator.space import ConfigError, load_sweep
from orchestrator.study.reading import read_study
from orchestrator.study.study import Study
from orchestrator.tracking.drainer import LOCK
from orchestrator.watching.status import read_status
from tests.workplace import SPACE, Workplace, learnt, records, sweep_to_kill, uninterrupted, wait_for

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
SWEEP = SPACE | {
    "search": {"algorithm": "random", "num_trials": 1},
    "scheduler": {"type": "fifo", "max_epochs": 6},
    "resources": {"concurrency": 1},
}
TENTHS = range(10)


def cut(path: Path, tenth: int) -> None:
    os.truncate(path, path.stat().st_size * tenth // 10)


@pytest.mark.parametrize("tenth", TENTHS)
def test_a_journal_cut_short_is_the_sweep_as_it_was_then(workplace: Workplace, tenth: int) -> None:
    """The study's journal truncated, and gone on with."""
    sweep, folder = load_sweep(workplace.folder / "tiny.yaml"), workplace.folder / "results/tiny"
    folder.mkdir(parents=True)
    write_definition(folder, sweep)
    study = Study(folder, sweep, build_sampler(sweep))
    for number in range(4):
        trial = study.ask()
        for epoch in (1, 2, 3):
            study.report(trial.number, epoch, {"val/knn_top1": number + epoch / 10}, f"epoch_{epoch:05d}.pt")
        study.end(trial.number, "completed")
    whole = read_study(folder, None)
    cut(folder / "study.journal", tenth)
    for before, now in zip(whole, read_study(folder, None), strict=False):
        assert now.values == before.values
        assert list(now.reports.items()) == list(before.reports.items())[: len(now.reports)]
    read_status(folder)
    again = Study(folder, sweep, build_sampler(sweep))
    for before in whole:  # what is asked and reported anew is what it was
        record = again.trials.get(before.number) or again.ask()
        assert (record.number, record.values) == (before.number, before.values)
        for epoch in (1, 2, 3):
            again_metrics = {"val/knn_top1": before.number + epoch / 10}
            if record.outcome is None:
                again.report(record.number, epoch, again_metrics, f"epoch_{epoch:05d}.pt")
        if record.outcome is None:
            again.end(record.number, "completed")
    assert read_study(folder, None) == whole or [r.reports for r in read_study(folder, None)] == [
        r.reports for r in whole
    ]


@pytest.mark.parametrize("name", ["definition.json", "sweep.yaml", "base.yaml"])
def test_a_definition_cut_short_is_still_known_or_refused_in_words(workplace: Workplace, name: str) -> None:
    """A file of the definition truncated at each tenth."""
    sweep, folder = load_sweep(workplace.folder / "tiny.yaml"), workplace.folder / "results/tiny"
    folder.mkdir(parents=True)
    for tenth in TENTHS:
        write_definition(folder, sweep)
        cut(folder / name, tenth)
        require_same_sweep(folder, sweep)  # the command with the space goes on, and writes it anew
        if name == "definition.json":
            with pytest.raises(ConfigError, match="cannot be read"):
                read_status(folder)
        write_definition(folder, sweep)
        read_status(folder)


@pytest.mark.parametrize("left", ["lock", "packing.json", "definition.json", ".definition.json.x3k_9q"])
def test_what_a_start_that_was_cut_off_leaves_is_in_nobodys_way(workplace: Workplace, left: str) -> None:
    """One of the files that are written before a sweep begins."""
    folder = workplace.folder / "results/tiny"
    folder.mkdir(parents=True)
    write_definition(folder, load_sweep(workplace.folder / "tiny.yaml"))
    for file in folder.iterdir():
        file.rename(folder / left) if file.name == "definition.json" else file.unlink()
    require_same_sweep(folder, load_sweep(workplace.folder / "tiny.yaml", overrides={"search.seed": 1}))


FILES = [
    "study.journal",
    "tracking.jsonl",
    "tracking.cursor.json",
    "definition.json",
    "sweep.yaml",
    "base.yaml",
    "trials/0000/config.yaml",
    "trials/0000/metrics.jsonl",
    "trials/0000/CHECKPOINT",
]


@pytest.fixture(scope="module")
def interrupted(shared_workplace: Workplace) -> Path:
    """A sweep killed in its first trial: its files."""
    shared_workplace.write("tiny.yaml", SWEEP)
    with sweep_to_kill(shared_workplace, "tiny.yaml") as process:
        wait_for(shared_workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 4', process)
    with exclusive(shared_workplace.folder / "results/tiny" / LOCK):
        pass  # the drainer, which outlives the driver, has left
    kept = shared_workplace.folder / "kept"
    shutil.copytree(shared_workplace.folder / "results", kept)
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("tenth", TENTHS)
@pytest.mark.parametrize("name", FILES)
def test_an_interrupted_sweep_with_a_file_cut_short_ends_with_the_same_numbers(
    shared_workplace: Workplace, interrupted: Path, name: str, tenth: int
) -> None:
    """A file of an interrupted sweep truncated, and the sweep gone on with."""
    results = shared_workplace.folder / "results"
    shutil.rmtree(results)
    shutil.copytree(interrupted, results)
    if name.endswith("CHECKPOINT"):
        path = max((results / "tiny/trials/0000").glob("epoch_*"))
    else:
        path = results / "tiny" / name
    cut(path, tenth)
    done = shared_workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for record in records(shared_workplace):
        assert (record.outcome, list(record.reports)) == ("completed", list(range(1, 7)))
        kept = uninterrupted(shared_workplace, record)
        assert [{k: m[k] for k in kept[0]} for m in map(learnt, record.reports.values())] == kept
