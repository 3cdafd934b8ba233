"""Bring what a submitted sweep found back from its cluster: the study, the best config, the report.

Checkpoints and the model stay there. While the sweep runs, this is a copy of what there is so far; fetched
again, the copy is replaced. `status`, `report`, `best` and `compare` work on it as on any sweep.
"""

import argparse
from pathlib import Path

EPILOG = """\
examples:
  hjepa-sweep fetch fpn --to ray
  hjepa-sweep fetch fpn --to ray && hjepa-sweep report fpn

exit status: 0 it is here; 2 something is wrong with what was asked, and nothing has changed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help="name of the sweep")
    parser.add_argument(
        "--to", required=True, metavar="PROFILE", help="the Ray cluster that it was submitted to"
    )


def run(options: argparse.Namespace) -> int:
    """Fetch it; the exit status."""
    from orchestrator.cluster.profile import load_profile

    print(load_profile(options.to).fetch(options.name, Path(options.results)))
    return 0
