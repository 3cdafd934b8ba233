"""What a submitted sweep prints on its cluster."""

import argparse
import sys

EPILOG = """\
examples:
  hjepa-sweep logs fpn --to ray
  hjepa-sweep logs fpn --to ray -f            until it ends or Ctrl-C, which the sweep does not hear of
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help="name of the sweep")
    parser.add_argument(
        "--to", required=True, metavar="PROFILE", help="the Ray cluster that it was submitted to"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it prints more")


def run(options: argparse.Namespace) -> int:
    """Print it; the exit status."""
    from orchestrator.cluster.profile import load_profile

    try:
        for text in load_profile(options.to).logs(options.name, options.follow):
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 0
    return 0
