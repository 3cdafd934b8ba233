"""Put a sweep's failed trials back, and go on with it.

Each is run under a new number with the same values, from its newest checkpoint that can be read; what it
reported stays, and the failed trial stays in the record, with the one that took it up.
"""

import argparse

from orchestrator.cli.going import add_address, add_storage, add_tracking
from orchestrator.cli.resume import go_on

EPILOG = """\
examples:
  hjepa-sweep retry fpn --failed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help="name of the sweep; `hjepa-sweep list` shows them")
    parser.add_argument("--failed", action="store_true", required=True, help="which trials: the failed ones")
    add_tracking(parser, "the sweep's; one with a password has to be given again")
    add_storage(parser, "the sweep's")
    add_address(parser)


def run(options: argparse.Namespace) -> int:
    """Put them back and go on; the exit status."""
    return go_on(options, retry_failed=True)
