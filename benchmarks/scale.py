"""What a sweep's driver costs as the sweep grows: 10,000 trials and 200,000 reports, without training.

A null trainer stands in the place of Ray and the trial processes: it hands the driver
(orchestrator.running.SweepRun) reports with the usual metrics and writes an empty checkpoint. The rest is
what a sweep has: Optuna's study in a journal on disk, the sampler, rungs that promote, the agenda, and the
spool for MLflow, whose server is away. The space is search_spaces/fpn.yaml with rungs at 4, 12 and 36 of 60
epochs, 20 reports a trial on average.

First the sweep runs until all trials have been asked for, and is stopped there, as by Ctrl-C. A new process
goes on with it to its end (resume), others ask after it (status, report), and two ask the Gaussian process
and TPE for further proposals on a copy of the record. Figures are CPU seconds of the process, all its
threads, without the null trainer's own: on a busy machine they hold where those of the clock do not. The
clock's stand beside them, with the load.

The trials are drawn at random, which leaves the driver's own cost, or proposed by --algorithm; "told" is
what a report costs without what it costs to ask for trials.
"""

import argparse
import json
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from orchestrator.definition import JOURNAL, SPACE, write_definition
from orchestrator.engine.queue import FINISHED
from orchestrator.engine.trial import Outcome, Task
from orchestrator.process.collector import keep_for_good
from orchestrator.process.environment import record_environment
from orchestrator.process.stopping import Stop
from orchestrator.running import SweepRun
from orchestrator.search.sampler import build_sampler, is_by_chance
from orchestrator.space import Sweep, load_sweep
from orchestrator.storage.checkpoints import checkpoint_name
from orchestrator.storage.depot import open_depot
from orchestrator.storage.disk import Patience
from orchestrator.study.study import Study
from orchestrator.tracking.tracking import Tracker
from orchestrator.watching.progress import Counts, progress
from orchestrator.watching.table import SweepTable

ROOT = Path(__file__).parent.parent
NAME = "scale"
MLFLOW = "http://127.0.0.1:9"  # nothing listens there
TENTHS = 10
SUGGESTIONS, DRAWINGS = 20, 5
LEARNING = ("gp", "tpe")


def scale_sweep(trials: int, algorithm: str = "random") -> Sweep:
    """The sweep that is measured."""
    return load_sweep(
        ROOT / "search_spaces/fpn.yaml",
        overrides={
            "name": NAME,
            "search.algorithm": algorithm,
            "search.num_trials": trials,
            "scheduler.grace_epochs": 4,
            "scheduler.max_epochs": 60,
            "confirm.top_k": 2,
        },
    )


@dataclass
class Running:
    """A trial in its place."""

    config: dict[str, Any]
    task: Task
    epoch: int
    level: float
    rng: random.Random

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Running":
        task = Task.of(config)
        Path(task.folder).mkdir(parents=True, exist_ok=True)
        epoch = int(Path(task.resume[0]).stem.partition("_")[2]) if task.resume else 0
        rng = random.Random(task.number)
        return cls(config, task, epoch, rng.random(), rng)

    def result(self) -> dict[str, Any]:
        """The next report, as a trial's process gives it."""
        self.epoch += 1
        folder, epoch = Path(self.task.folder), self.epoch
        file = folder / checkpoint_name(epoch)
        before = folder / checkpoint_name(epoch - 1)
        before.rename(file) if before.exists() else file.touch()
        value = 0.5 + 0.4 * self.level * (1 - math.exp(-epoch / 10)) + 0.01 * self.rng.random()
        parts = {f"train/prediction_level_{level}": 1 / epoch + level for level in range(3)}
        metrics = parts | {
            "train/loss": 3 / epoch,
            "train/vicreg": 0.1 / epoch,
            "train/grad_norm": 1.0,
            "train/lr": 1e-3,
            "val/knn_top1": value,
            "val/rankme": 20.0 + value,
            "val/feature_std": 0.5,
            "val/alpha_req": 1.0,
            "time/images_per_s": 5000.0,
            "time/epoch_s": 0.4,
        }
        over = epoch == 60
        return Outcome(epoch, metrics, file.name, over, seconds=0.4).result()


class NullEngine:
    """Asks for trials and reports of them in turn, as Tune does with many processes."""

    def __init__(self, run: SweepRun, places: int):
        self.run, self.places = run, places
        self.running: deque[Running] = deque()
        self.reports = 0
        self.own_s = 0.0
        """CPU seconds of the null trainer."""
        self.asking_s = 0.0
        """CPU seconds in which the driver was asked for trials."""

    def fill(self) -> bool:
        """Begin what there is room for; whether anything runs."""
        while len(self.running) < self.places:
            began = time.process_time()
            config = self.run.next_trial()
            self.asking_s += time.process_time() - began
            if config is None or config == FINISHED:
                break
            assert isinstance(config, dict)
            with self._own():
                place = Running.of(config)
            self.run.started(config)
            self.running.append(place)
        return bool(self.running)

    def turn(self) -> None:
        """One report."""
        place = self.running.popleft()
        self.run.tick()
        with self._own():
            result = place.result()
        goes_on = self.run.reported(place.config, result)
        self.reports += 1
        if goes_on and not result["done"]:
            self.running.append(place)

    @contextmanager
    def _own(self) -> Iterator[None]:
        began = time.process_time()
        yield
        self.own_s += time.process_time() - began


@dataclass(frozen=True)
class Mark:
    """A moment of the run."""

    asked: int
    reports: int
    cpu_s: float
    asking_s: float
    """Of them to be told of trials to run."""
    wall_s: float

    @classmethod
    def now(cls, asked: int, engine: NullEngine) -> "Mark":
        """As it stands."""
        cpu_s = time.process_time() - engine.own_s
        return cls(asked, engine.reports, cpu_s, engine.asking_s, time.perf_counter())


def opened(folder: Path, sweep: Sweep) -> tuple[SweepRun, Study]:
    """The sweep in `folder`, new or to be gone on with, as run_sweep has it."""
    stop = Stop()
    patience = Patience(stop.pause)
    write_definition(folder, sweep)
    record_environment(folder)
    study = Study(folder, sweep, build_sampler(sweep), patience)
    tracker = Tracker(folder, MLFLOW, NAME, study.id, patience)
    counts = Counts(total=sweep.num_trials + 1 + sweep.num_confirmations)
    depot = open_depot(folder, sweep, study)
    run = SweepRun(folder, sweep, study, tracker, counts, stop, patience, depot)
    keep_for_good()
    return run, study


def drive(folder: Path, trials: int, places: int, algorithm: str) -> dict[str, Any]:
    """Run until all trials have been asked for; the marks at each tenth of them."""
    sweep = scale_sweep(trials, algorithm)
    folder.mkdir(parents=True)
    run, study = opened(folder, sweep)
    engine = NullEngine(run, places)
    marks: list[Mark] = []
    with shown(run, sweep):
        while engine.fill() and study.searched < trials:
            if study.searched >= len(marks) * trials // TENTHS:
                marks.append(Mark.now(study.searched, engine))
            engine.turn()
    marks.append(Mark.now(study.searched, engine))
    drawing = [cpu_of(lambda: draw(run)) for _ in range(DRAWINGS)]
    run.ending.abandon(run.stop)
    return {"marks": [asdict(mark) for mark in marks], "drawing_s": statistics.median(drawing)} | memory()


def resume(folder: Path, trials: int, places: int) -> dict[str, Any]:
    """Go on from there to the end."""
    began = psutil.Process().create_time()
    imported = time.time() - began
    sweep = load_sweep(folder / SPACE)
    run, study = opened(folder, sweep)
    engine = NullEngine(run, places)
    assert engine.fill()
    ready, ready_cpu = time.time() - began, time.process_time()
    cpu, begun = time.process_time(), time.perf_counter()
    with shown(run, sweep):
        while engine.fill():
            engine.turn()
    cpu = time.process_time() - cpu - engine.own_s
    wall = time.perf_counter() - begun
    assert not study.unfinished()
    reports = sum(len(record.reports) for record in study.trials.values())
    run.ending.abandon(run.stop)
    return {
        "resume_s": ready,
        "resume_cpu_s": ready_cpu,
        "import_s": imported,
        "tail_reports": engine.reports,
        "tail_cpu_s": cpu,
        "tail_wall_s": wall,
        "trials": len(study.trials),
        "reports": reports,
    } | memory()


def suggest(folder: Path, algorithm: str) -> dict[str, Any]:
    """Ask for proposals on the record in `folder`, which changes; those drawn at random do not count."""
    sweep = scale_sweep(10**6, algorithm)
    study = Study(folder, sweep, build_sampler(sweep))
    known, found = len(study.trials), []
    while len(found) < SUGGESTIONS:
        began = time.process_time()
        record = study.ask()
        if not is_by_chance(sweep.config.search.seed, record.number):
            found.append(time.process_time() - began)
    first, *others = found  # which imports the algorithm
    suggested = {"first_s": first, "suggest_s": statistics.median(others), "most_s": max(others)}
    return suggested | {"trials": known} | memory()


def draw(run: SweepRun) -> None:
    """The live table once."""
    with Path(os.devnull).open("w") as nowhere:
        Console(file=nowhere, force_terminal=True, width=120, height=40).print(SweepTable(run.status()))


@contextmanager
def shown(run: SweepRun, sweep: Sweep) -> Iterator[None]:
    """Within, the sweep's lines go nowhere."""
    lines = progress(run.study.metric, sweep.max_epochs, run.counts, run.status)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), lines as run.progress:
        yield


def cpu_of(action: Any) -> float:
    """CPU seconds of an action."""
    began = time.process_time()
    action()
    return time.process_time() - began


def memory() -> dict[str, float]:
    """Most of main memory that this process has held."""
    return {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def phase(name: str, folder: Path, trials: int, places: int, algorithm: str) -> dict[str, Any]:
    """A part of the measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--phase", name, "--folder", str(folder)]
    command += ["--trials", str(trials), "--places", str(places), "--algorithm", algorithm]
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(told.splitlines()[-1])


def command_s(results: Path, *words: str) -> tuple[float, float]:
    """Seconds of a command of hjepa-sweep: by the clock, and of CPU."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "orchestrator.cli", *words, "--results", str(results)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def show_drive(found: dict[str, Any]) -> None:
    """The table of a run's tenths."""
    marks = [Mark(**mark) for mark in found["marks"]]
    print("trials        reports   CPU ms/report    told   clock ms/report   CPU ms/trial", flush=True)
    costs = []
    for before, after in pairwise(marks):
        reports, trials = after.reports - before.reports, after.asked - before.asked
        cpu, wall = after.cpu_s - before.cpu_s, after.wall_s - before.wall_s
        told = cpu - after.asking_s + before.asking_s
        costs.append(cpu / trials)
        print(
            f"to {after.asked:6} {reports:10} {1e3 * cpu / reports:15.2f} {1e3 * told / reports:7.2f} "
            f"{1e3 * wall / reports:17.2f} {1e3 * cpu / trials:14.1f}"
        )
    print(f"the last tenth of the trials costs {costs[-1] / costs[0]:.2f} times the first, in CPU seconds")
    print(f"one drawing of the live table: {1e3 * found['drawing_s']:.0f} ms CPU; it draws twice a second")
    print(f"peak memory of the driver: {found['peak_gb']:.2f} GB", flush=True)


def show_suggestions(journal: Path, place: Path, trials: int, places: int) -> None:
    """What each algorithm's proposals cost on the record so far."""
    for algorithm in LEARNING:
        copy = place / algorithm
        copy.mkdir()
        shutil.copy(journal, copy / JOURNAL)
        found = phase("suggest", copy, trials, places, algorithm)
        median, most, first = (1e3 * found[name] for name in ("suggest_s", "most_s", "first_s"))
        print(
            f"{algorithm} at {found['trials']} trials: {median:.0f} ms CPU a proposal (median of "
            f"{SUGGESTIONS - 1}), {most:.0f} at most, {first:.0f} the first, which imports it; "
            f"peak memory {found['peak_gb']:.2f} GB",
            flush=True,
        )


def measure(trials: int, places: int, algorithm: str) -> None:
    """All of it."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    # What delivers to MLflow may still write there, until it finds the folder gone.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        results = Path(place) / "results"
        folder = results / NAME
        show_drive(phase("drive", folder, trials, places, algorithm))
        show_suggestions(folder / JOURNAL, Path(place), trials, places)
        found = phase("resume", folder, trials, places, algorithm)
        print(
            f"resume: {found['resume_s']:.1f} s to the first trial, {found['import_s']:.1f} of it imports, "
            f"{found['resume_cpu_s']:.1f} of CPU;\n"
            f"  then {found['tail_reports']} reports to the end, "
            f"{1e3 * found['tail_cpu_s'] / max(1, found['tail_reports']):.2f} ms CPU each, "
            "with the end of all trials that wait at a rung"
        )
        print(
            f"at the end: {found['trials']} trials, {found['reports']} reports; "
            f"peak memory {found['peak_gb']:.2f} GB",
            flush=True,
        )
        for words in (("status", NAME), ("list",), ("report", NAME)):
            wall, cpu = command_s(results, *words)
            print(f"hjepa-sweep {words[0]}: {wall:.1f} s, {cpu:.1f} of CPU", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python -m benchmarks.scale --trials 1000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=10_000, help="of the search (default %(default)s)")
    parser.add_argument("--places", type=int, default=16, help="trials at a time (default %(default)s)")
    parser.add_argument(
        "--algorithm",
        choices=("random", *LEARNING),
        default="random",
        help="of the search (default %(default)s)",
    )
    parser.add_argument("--phase", choices=("drive", "resume", "suggest"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase is None:
        measure(options.trials, options.places, options.algorithm)
    elif options.phase == "suggest":
        print(json.dumps(suggest(options.folder, options.algorithm)))
    elif options.phase == "drive":
        print(json.dumps(drive(options.folder, options.trials, options.places, options.algorithm)))
    else:
        print(json.dumps(resume(options.folder, options.trials, options.places)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
