"""What test_distributed.py has torchrun start: the runs of a JSON file, one after another in one group.

Every rank writes what it saw of a run, <name>-<rank>.pt: its last weights, its reports, how it ended.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from hjepa import distributed, lanes
from hjepa.config import RunConfig
from hjepa.distributed import team_of
from hjepa.run import build_run, joined
from hjepa.step import NonFiniteError
from hjepa.train import train_run

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Of a process that is to be one of several."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}


def witnessed(case: dict[str, Any]) -> dict[str, Any]:
    """A run's numbers on the CPU, which also a one-process run gives."""
    run = build_run(RunConfig.model_validate_json(json.dumps(case["config"])))
    if case.get("resume"):
        run.load(Path(case["resume"]))
    reports, ended = [], "done"
    try:
        for report in train_run(run):
            metrics = {name: value for name, value in report.metrics.items() if "time/" not in name}
            reports.append(metrics | {"collapsed": str(report.collapsed)})
            if report.epoch == case.get("save_after"):
                report.save(Path(case["save"]))
    except NonFiniteError as error:
        ended = str(error)
    weights = {name: value.cpu() for name, value in run.model.state_dict().items()}
    return {"weights": weights, "reports": reports, "ended": ended}


def main(cases: Path) -> None:
    listed = json.loads(cases.read_text())
    distributed.BUCKET_VALUES = 2000  # several buckets even of a tiny model's gradients
    lanes.LEAST_VALUES = 1  # as many of them as threads
    first = RunConfig.model_validate_json(json.dumps(next(iter(listed.values()))["config"]))
    with joined(first):
        team = team_of(first.distributed)
        for name, case in listed.items():
            torch.save(witnessed(case), cases.parent / f"{name}-{team.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
