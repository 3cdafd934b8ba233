"""Run a search space to its answer, or go on with it.

A sweep that was interrupted, by Ctrl-C or by a power cut, goes on when it is started again by the same
command. A changed definition under the same name is refused with the difference shown; --fork begins a
new sweep by that definition and takes over the finished trials that are the same in it.

Ctrl-C once (or SIGTERM, or SIGUSR1) stops well: what ends its epoch within seconds is taken in. Twice
leaves at once. Neither loses anything that was reported.
"""

import argparse
import sys
from pathlib import Path

from orchestrator.cli.going import (
    add_address,
    add_changes,
    add_storage,
    add_tracking,
    checked_uri,
    default_store,
    go,
)

EPILOG = """\
examples:
  hjepa-sweep search_spaces/fpn.yaml
  hjepa-sweep search_spaces/fpn.yaml --trials 8 --set scheduler.max_epochs=9
  hjepa-sweep search_spaces/fpn.yaml --base configs/quick/cifar10.yaml --set data.data_path=DIR
  hjepa-sweep search_spaces/fpn.yaml --fork fpn-wider
  hjepa-sweep search_spaces/fpn.yaml --storage postgresql://me@db.example.org/sweeps
  hjepa-sweep search_spaces/fpn.yaml --address auto
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("space", help="YAML search space, such as search_spaces/fpn.yaml")
    add_changes(parser)
    parser.add_argument(
        "--fork",
        metavar="NAME",
        help="run as a new sweep of that name, with the finished trials of the space's own that still fit",
    )
    add_tracking(parser, "mlflow.db in the results")
    add_storage(parser, "a journal in the sweep's folder")
    add_address(parser)


def run(options: argparse.Namespace) -> int:
    """Run the sweep; the exit status."""
    from orchestrator.space import load_sweep, parse_overrides
    from orchestrator.study.place import place_of

    overrides = parse_overrides(options.set)
    sweep = load_sweep(
        options.space,
        base=options.base,
        overrides=overrides,
        trials=options.trials,
        warn=lambda line: print(f"hjepa-sweep: warning: {line}", file=sys.stderr),
    )
    results = Path(options.results)
    tracking = checked_uri(options.tracking_uri or default_store(results))
    if options.fork is not None:
        from orchestrator.fork import fork

        forked = load_sweep(
            options.space,
            base=options.base,
            overrides={**overrides, "name": options.fork},
            trials=options.trials,
        )
        place = place_of(results / options.fork, options.storage)
        for line in fork(results, sweep.config.name, forked, place):
            print(line, flush=True)
        sweep = forked
    from orchestrator.sweep import run_sweep

    place = place_of(results / sweep.config.name, options.storage)
    return go(
        lambda command, leave: run_sweep(sweep, results, tracking, place=place, command=command, leave=leave),
        sweep,
        tracking,
        words_again(options.given),
        place,
    )


def words_again(given: list[str]) -> list[str]:
    """What goes on with a sweep that the words `given`, with the command written out, have begun."""
    # An option is no command in whose place a space may stand.
    return given if given[1].startswith("-") else given[1:]
