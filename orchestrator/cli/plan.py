"""What a search space will likely take: epochs, wall time, cost, memory and disk, with a range.

Some steps and an evaluation of the base and of the dearest configurations are measured on this machine, as
many at once as trials would run; the search is then played through with its own scheduler. Of the results
nothing is written; images that runs would keep decoded are decoded first, if they are not yet.

--simulate measures nothing and asks another question: would the search find what is good? It plays the whole
of it, sampler, rungs and all, in worlds that are made up, beside the same trials without early stopping and
at random.
"""

import argparse
import json
import sys

from orchestrator.cli.going import add_changes

EPILOG = """\
examples:
  hjepa-sweep plan search_spaces/fpn.yaml
  hjepa-sweep plan search_spaces/fpn.yaml --trials 100 --json | jq .wall_s
  hjepa-sweep plan search_spaces/fpn.yaml --simulate --set scheduler.reduction_factor=2
"""
WORLDS, MOST_WORLDS = 10, 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("space", metavar="SPACE", help="YAML search space")
    add_changes(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument(
        "--simulate",
        nargs="?",
        type=_worlds,
        const=WORLDS,
        metavar="WORLDS",
        help=f"play the search in so many made-up worlds ({WORLDS}) in place of measuring",
    )


def run(options: argparse.Namespace) -> int:
    """Plan it; the exit status."""
    from orchestrator.engine.capacity import places
    from orchestrator.planning.plan import plan
    from orchestrator.planning.rehearsal import rehearse
    from orchestrator.space import load_sweep, parse_overrides

    def say(text: str) -> None:
        print(f"hjepa-sweep: {text}", file=sys.stderr, flush=True)

    sweep = load_sweep(options.space, options.base, parse_overrides(options.set), options.trials)
    if options.simulate is not None:
        found = rehearse(sweep, options.simulate, places(sweep.config.resources), say)
    else:
        found = plan(sweep, say)
    print(json.dumps(found.data(), indent=1) if options.json else found.words())
    return 0


def _worlds(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if not 1 <= count <= MOST_WORLDS:
        hint = "" if text[:1].isdecimal() else "; the space stands before --simulate"
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1 to {MOST_WORLDS}{hint}")
    return count
