"""What a search space will likely take: epochs, wall time, cost, memory and disk, with a range.

Some steps and an evaluation of the base and of the dearest configurations are measured on this machine, as
many at once as trials would run; the search is then played through with its own scheduler. Writes nothing.
"""

import argparse
import json
import sys

from orchestrator.cli.going import add_changes

EPILOG = """\
examples:
  hjepa-sweep plan search_spaces/fpn.yaml
  hjepa-sweep plan search_spaces/fpn.yaml --trials 100 --json | jq .wall_s
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("space", metavar="SPACE", help="YAML search space")
    add_changes(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Plan it; the exit status."""
    from orchestrator.plan import plan
    from orchestrator.space import load_sweep, parse_overrides

    sweep = load_sweep(options.space, options.base, parse_overrides(options.set), options.trials)
    found = plan(sweep, lambda text: print(f"hjepa-sweep: {text}", file=sys.stderr, flush=True))
    print(json.dumps(found.data(), indent=1) if options.json else found.words())
    return 0
