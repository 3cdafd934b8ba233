"""Go on with a sweep by its name.

Everything it needs stands in its folder, so the search space file may have changed or gone meanwhile.
Paths in the config are still relative to the current directory. A finished sweep repeats its answer.
"""

import argparse
from pathlib import Path

from orchestrator.cli.going import add_address, add_storage, add_tracking, go, store_of

EPILOG = """\
examples:
  hjepa-sweep resume fpn
  hjepa-sweep resume fpn --results /data/results
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help="name of the sweep; `hjepa-sweep list` shows them")
    add_tracking(parser, "the sweep's; one with a password has to be given again")
    add_storage(parser, "the sweep's")
    add_address(parser)


def run(options: argparse.Namespace) -> int:
    """Go on; the exit status."""
    return go_on(options, retry_failed=False)


def go_on(options: argparse.Namespace, retry_failed: bool) -> int:
    """Go on with the sweep, with its failed trials put back or not; the exit status."""
    from orchestrator.definition import SPACE, find_sweep
    from orchestrator.space import load_sweep
    from orchestrator.study.place import place_of
    from orchestrator.sweep import run_sweep

    results = Path(options.results)
    folder = find_sweep(results, options.name)
    sweep, tracking = load_sweep(folder / SPACE), store_of(folder, options.tracking_uri)
    again = ["resume", options.name, "--results", options.results]
    if options.tracking_uri is not None:  # without its secrets, see hide_passwords
        again += ["--tracking-uri", options.tracking_uri]
    place = place_of(folder, options.storage)
    if options.storage is not None:
        again += ["--storage", options.storage]
    if options.address is not None:
        again += ["--address", options.address]
    return go(
        lambda command, leave: run_sweep(sweep, results, tracking, retry_failed, place, command, leave),
        sweep,
        tracking,
        again,
        place,
    )
