"""64 trials at a time on a Ray cluster of eight nodes, simulated on this machine.

Nodes, processes, placement, study, rungs and agenda are real; a trial sleeps instead of learning
(null_trial.py). Prints how many ran at a time and on how many nodes, reports a second, and the driver's CPU
for each. Starting so many processes takes most of the time where there are few cores: about 100 MB and two
seconds of CPU each.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.engine import engine  # isort: skip (sets what Ray reads on import)

import ray

from benchmarks.null_trial import NullActor
from benchmarks.scale import opened
from orchestrator.engine.trial import Outcome, Task
from orchestrator.process.stopping import Stop
from orchestrator.running import SweepRun
from orchestrator.space import Sweep, load_sweep
from tests.programs.nodes import LOOPBACK, cluster_of
from tests.workplace import OUTSIDE, free_port

ROOT = Path(__file__).parent.parent


@dataclass
class Watched:
    """A sweep's run that counts what passes by."""

    run: SweepRun
    most: int = 0
    """Trials that have run at a time."""
    full_s: float = 0.0
    """When that many were first reached."""
    reports: set[tuple[int, int]] = field(default_factory=set)
    """Trial and epoch of each; Tune hands a trial's last one over twice."""
    at_full: int = 0
    """How many there were then."""
    cpu_s: float = 0.0
    """The driver's CPU then."""

    def tick(self) -> list[int]:
        """Count, and pass it on."""
        if len(self.run.heard) > self.most:
            self.most, self.full_s = len(self.run.heard), time.monotonic()
            self.at_full, self.cpu_s = len(self.reports), time.process_time()
        return self.run.tick()

    def running(self) -> int:
        """Pass it on."""
        return self.run.running()

    def started(self, config: dict[str, Any]) -> None:
        """Pass it on."""
        self.run.started(config)

    def reported(self, config: dict[str, Any], result: dict[str, Any]) -> bool:
        """Count it, and pass it on."""
        self.reports.add((Task.of(config).number, Outcome.of(result).epoch))
        return self.run.reported(config, result)

    def crashed(self, config: dict[str, Any], error: str) -> None:
        """Pass it on."""
        self.run.crashed(config, error)


def null_sweep(trials: int) -> Sweep:
    """The sweep that is run."""
    settings = {
        "name": "cluster",
        "search.algorithm": "random",
        "search.num_trials": trials,
        "scheduler.max_epochs": NullActor.epochs,
        "scheduler.grace_epochs": 3,
        "confirm.top_k": 0,
    }
    return load_sweep(ROOT / "search_spaces/fpn.yaml", overrides=settings)


def drive(address: str, nodes: int, cpus: int, trials: int) -> None:
    """Run the sweep on the cluster, and print what was seen."""
    # A class of trial processes like any other: the engine looks at nothing in it.
    engine.TrialActor = NullActor  # pyright: ignore[reportAttributeAccessIssue]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as results:
        folder, sweep = Path(results) / "cluster", null_sweep(trials)
        folder.mkdir()
        with engine.cluster_ray(sweep.config.resources, address, folder) as scratch:
            run, study = opened(folder, sweep)
            watched = Watched(run)
            engine.run_trials(sweep.config.resources, run.next_trial, watched, Stop(), scratch)
            ended, cpu_s = time.monotonic(), time.process_time()
        run.ending.abandon(run.stop)
        assert not study.unfinished()
        kept = sum(len(record.reports) for record in study.trials.values())
        assert kept == len(watched.reports), "a report was lost"
        used = {file.read_text() for file in folder.glob("trials/*/epoch_*")}
        outcomes = Counter(record.outcome for record in study.trials.values())
    reports, seconds = kept - watched.at_full, ended - watched.full_s
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(f"{len(study.trials)} trials ({told}), {kept} reports, all of them in the study")
    print(f"{watched.most} trials at a time, on {len(used)} of {nodes} nodes of {cpus} cores")
    print(f"{watched.full_s - began:.0f} s until so many ran, then {seconds:.0f} s to the end")
    print(
        f"in these {reports} reports, {reports / seconds:.0f} a second, and "
        f"{1e3 * (cpu_s - watched.cpu_s) / reports:.1f} ms of the driver's CPU for each, with Ray Tune's part"
    )


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python -m benchmarks.cluster --nodes 2 --cpus 2 --trials 12",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=8, help="default %(default)s")
    parser.add_argument("--cpus", type=int, default=8, help="trials on each node (default %(default)s)")
    parser.add_argument("--trials", type=int, default=160, help="of the search (default %(default)s)")
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.address:
        drive(options.address, options.nodes, options.cpus, options.trials)
        return 0
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Ray {ray.__version__}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hn") as folder, cluster_of(Path(folder), free_port()) as cluster:
        for _ in range(options.nodes):
            cluster.add(options.cpus)
        command = [sys.executable, "-m", "benchmarks.cluster", "--address", cluster.address]
        for name in ("nodes", "cpus", "trials"):
            command += [f"--{name}", str(getattr(options, name))]
        # Ray and the cluster's address are set before the first import.
        env = OUTSIDE | LOOPBACK | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
