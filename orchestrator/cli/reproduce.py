"""Run a trial again, by itself, and say whether every metric is the same to the last digit.

In a scratch folder, on one process, as far as the trial has reported; the sweep's record is only read.
Other versions or another processor round differently; what the record knows of such is said.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.going import FAILED, add_storage

if TYPE_CHECKING:
    from orchestrator.reporting.material import Material
    from orchestrator.study.record import TrialRecord

EPILOG = """\
examples:
  hjepa-sweep reproduce fpn --trial 23

exit status: 0 identical, 1 not, 2 something is wrong with what was asked.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help="name of the sweep; `hjepa-sweep list` shows them")
    parser.add_argument("--trial", required=True, metavar="ID", help="its number, such as 23 or 0023")
    add_storage(parser, "the sweep's")


def run(options: argparse.Namespace) -> int:
    """Run it again; the exit status."""
    from orchestrator.definition import find_sweep
    from orchestrator.reporting.material import read_material
    from orchestrator.reproduction import repeat
    from orchestrator.space import ConfigError

    material = read_material(find_sweep(Path(options.results), options.name), options.storage)
    record = material.trial(options.trial)
    if not record.reports:
        raise ConfigError(f"--trial {record.id}: it has reported nothing that could be compared.")
    for line in _circumstances(material, record):
        print(line, flush=True)
    differing, compared = 0, 0
    for found in repeat(material.sweep, record):
        same = "identical" if not found.differing else f"{len(found.differing)} of {found.compared} differ"
        print(f"epoch {found.epoch}/{material.epochs(record)}: {same}", flush=True)
        for name, (before, now) in found.differing.items():
            print(f"  {name}: {before!r} then, {now!r} now")
        differing += bool(found.differing)
        compared += found.compared
    if differing:
        print(f"not identical: {differing} of {len(record.reports)} epochs of trial {record.id} differ")
        return FAILED
    print(f"identical: {compared} figures of trial {record.id} over {len(record.reports)} epochs")
    return 0


def _circumstances(material: "Material", record: "TrialRecord") -> list[str]:
    """What may make a difference."""
    from orchestrator.process.environment import differences, environment, environment_at

    then = environment_at(list(material.environments), record.began)
    lines = ["nothing is recorded of what the trial ran on"] if not then else []
    for name, (before, now) in (differences(then, environment()) if then else {}).items():
        lines.append(f"{name}: {before} then, {now} now")
    workers = material.sweep.config.resources.workers
    if workers > 1:
        lines.append(f"the trial ran in {workers} processes and runs in one now: sums may round differently")
    if record.halved:
        lines.append(
            "the trial went on at half its micro-batch from some epoch on; now it runs so throughout"
        )
    if record.origin is not None:
        lines.append(f"the trial was taken over: {record.origin}")
    return lines
