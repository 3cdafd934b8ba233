"""The sweeps of a results folder: how far each is, and its best."""

import argparse
import json
from pathlib import Path

EPILOG = """\
examples:
  hjepa-sweep list
  hjepa-sweep list --results /data/results --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--json", action="store_true", help="as one JSON list")


def run(options: argparse.Namespace) -> int:
    """Show them; the exit status."""
    from orchestrator.definition import sweep_folders
    from orchestrator.watching.status import read_status

    found = [read_status(folder, newest_only=True) for folder in sweep_folders(Path(options.results))]
    if options.json:
        print(json.dumps([status.data(trials=False) for status in found], indent=1))
    elif not found:
        print(f"{options.results} holds no sweep.")
    width = max((len(status.name) for status in found), default=0)
    for status in found if not options.json else ():
        print(f"{status.name:{width}}  {status.line()}")
    return 0
