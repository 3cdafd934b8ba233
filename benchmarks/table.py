"""Runs every configuration of benchmarks/tabulated/space.yaml, with each seed, to its last epoch, and writes
what they reported to benchmarks/tabulated/digits.parquet: what benchmarks/search.py replays.

A run's lines are kept in `--work` as soon as it ends, so a second call goes on where the first one was
stopped. Seeds are the outermost loop: whenever it stops, every configuration has been run with nearly the
same ones. The parquet file is written at the end, of all that has been run; `--gather` writes it at once.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from hjepa.records import JsonLines
from hjepa.train import train
from orchestrator.space import Sweep, load_sweep

HERE = Path(__file__).parent / "tabulated"
SPACE, TABLE = HERE / "space.yaml", HERE / "digits.parquet"
SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("results/tabulated"), help="where lines are kept")
    parser.add_argument("--gather", action="store_true", help="only write the table of what is there")
    arguments = parser.parse_args()
    sweep, lines = load_sweep(SPACE), arguments.work / "runs.jsonl"
    arguments.work.mkdir(parents=True, exist_ok=True)
    done = {(line["config"], line["seed"]): line for line in read(lines)}
    if not arguments.gather:
        records = JsonLines(lines)
        for seed, (number, values) in product(SEEDS, enumerate(sweep.grid())):
            if (number, seed) not in done:
                line = {"config": number, "seed": seed} | curve(sweep, values, seed)
                records.write(line)
                done[number, seed] = line
                print(f"config {number} seed {seed}, {len(done)} runs", flush=True)
    write(sweep, list(done.values()))


def read(lines: Path) -> Iterator[dict[str, Any]]:
    """The runs that are kept."""
    if lines.exists():
        yield from map(json.loads, lines.read_text(encoding="utf-8").splitlines())


def curve(sweep: Sweep, values: dict, seed: int) -> dict:
    """The objective after each epoch of one run; of a collapsed one as far as it went."""
    torch.set_num_threads(1)
    found, collapsed = [], None
    for report in train(sweep.resolve({**values, "seed": seed})):
        found.append(report.metrics[sweep.config.objective.metric])
        collapsed = report.collapsed
    return {"curve": found, "collapsed": collapsed is not None}


def write(sweep: Sweep, runs: list[dict]) -> None:
    """One row per run: its values by label, seed, curve, and whether it collapsed."""
    configs = [sweep.params(values) for values in sweep.grid()]
    rows = [
        {key: configs[run["config"]].get(key) for key in sweep.config.space} | run
        for run in sorted(runs, key=lambda run: (run["config"], run["seed"]))
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), TABLE, compression="zstd")
    print(f"{TABLE}: {len(rows)} runs")


if __name__ == "__main__":
    main()
