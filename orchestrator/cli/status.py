"""How a sweep stands, from any shell, while it runs and afterwards.

Reads the record without locking out the sweep that writes it, and changes nothing. Without a name, the
sweep that was written to last.
"""

import argparse
import json
from pathlib import Path

from orchestrator.cli.going import add_storage

EPILOG = """\
examples:
  hjepa-sweep status
  hjepa-sweep status fpn
  watch -n 10 hjepa-sweep status fpn
  hjepa-sweep status fpn --json | jq .best
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", nargs="?", help="name of the sweep; `hjepa-sweep list` shows them")
    add_storage(parser, "the sweep's")
    parser.add_argument("--json", action="store_true", help="the whole of it as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Show it; the exit status."""
    from orchestrator.definition import find_sweep
    from orchestrator.status import newest_sweep, read_status

    results = Path(options.results)
    folder = find_sweep(results, options.name) if options.name else newest_sweep(results)
    status = read_status(folder, options.storage)
    print(json.dumps(status.data(), indent=1) if options.json else status.words())
    return 0
