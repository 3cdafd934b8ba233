"""Send MLflow what it has not got of a sweep.

For a sweep whose server was away at its end. A running sweep sends by itself. With --tracking-uri of
another store than the sweep's, that one gets the whole record.
"""

import argparse
from pathlib import Path

from orchestrator.cli.going import add_tracking, store_of

EPILOG = """\
examples:
  hjepa-sweep sync fpn
  hjepa-sweep sync fpn --tracking-uri http://mlflow.example.org:5000

exit status: 0 MLflow has everything; 1 it has not, and the records are kept;
2 something is wrong with what was asked.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help="name of the sweep; `hjepa-sweep list` shows them")
    parser.add_argument(
        "--timeout", type=_seconds, default=600.0, metavar="S", help="seconds to try (default: 600)"
    )
    add_tracking(parser, "the sweep's; one with a password has to be given again")


def run(options: argparse.Namespace) -> int:
    """Send it; the exit status."""
    from orchestrator.definition import find_sweep
    from orchestrator.reporting.caption import counted
    from orchestrator.study.holder import SweepLock
    from orchestrator.tracking.tracking import LOG, drain, undelivered

    folder = find_sweep(Path(options.results), options.name)
    store = store_of(folder, options.tracking_uri)
    lock = SweepLock(folder)
    try:
        before = undelivered(folder)
        left = drain(folder, store, options.timeout)
    finally:
        lock.release()
    if left:
        lacking = counted(left, "record")
        print(f"{options.name}: MLflow has not got {lacking}, kept in {folder}. See {folder / LOG}.")
        return 1
    print(f"{options.name}: MLflow has everything; it lacked {counted(before, 'record')}.")
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of more than 0 seconds")
    return seconds
