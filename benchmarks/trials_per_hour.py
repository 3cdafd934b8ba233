"""Trials per hour of search_spaces/fpn.yaml: `hjepa-sweep` against the script that one would write with plain
Ray Tune (plain_tune.py).

Same space, number of trials, seeds of the search, rungs, cores, model, step and evaluation; MLflow records
both. Each is a command, timed from its start to its end, on results of its own, in turn. Ours also runs the
base config to its end, which is not counted as a trial; its runs with fresh seeds are left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    wall_s: float
    epochs: int
    best: float

    def words(self, trials: int) -> str:
        """In a line."""
        rate = 3600 * trials / self.wall_s
        return f"{rate:6.0f} trials/hour ({self.wall_s:.0f} s, {self.epochs} epochs, best {self.best:.4f})"


def ours(folder: Path, trials: int, seed: int) -> tuple[int, float]:
    """Run the sweep; its epochs, and its best value."""
    command = [sys.executable, "-m", "orchestrator.cli", str(ROOT / "search_spaces/fpn.yaml")]
    for setting in (f"search.num_trials={trials}", f"search.seed={seed}", "confirm.top_k=0"):
        command += ["--set", setting]
    subprocess.run([*command, "--results", str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    words = ["-m", "orchestrator.cli", "status", "fpn", "--json", "--results", str(folder)]
    told = subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(told.stdout)
    epochs = sum(len(file.read_text().splitlines()) for file in folder.glob("fpn/trials/*/metrics.jsonl"))
    (best,) = (trial for trial in found["trials"] if trial["trial"] == found["best"])
    return epochs, best["val/knn_top1"]


def plain(folder: Path, trials: int, seed: int) -> tuple[int, float]:
    """Run the script likewise."""
    command = [sys.executable, "-m", "benchmarks.plain_tune", str(folder)]
    command += ["--trials", str(trials), "--seed", str(seed)]
    told = subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    found = json.loads(told.stdout.splitlines()[-1])
    return found["epochs"], found["best"]


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python -m benchmarks.trials_per_hour --rounds 1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=24, help="of each search (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="times that the two take turns (default 2)")
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {"trials": [], "epochs": []}
    for seed in range(options.rounds):
        found = {}
        for name, run in (("ours", ours), ("plain", plain)):
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                epochs, best = run(Path(folder), options.trials, seed)
                found[name] = Ran(time.perf_counter() - began, epochs, best)
            load = os.getloadavg()[0]
            print(f"seed {seed} {name:5} {found[name].words(options.trials)}, load {load:.1f}", flush=True)
        by_trial = found["plain"].wall_s / found["ours"].wall_s
        ratios["trials"].append(by_trial)
        ratios["epochs"].append(by_trial * found["ours"].epochs / found["plain"].epochs)
    for what, found in ratios.items():
        shown = ", ".join(f"{ratio:.2f}" for ratio in found)
        print(f"ours over plain: {statistics.median(found):.2f} times the {what} an hour ({shown})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
