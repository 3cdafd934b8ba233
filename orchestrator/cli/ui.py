"""Look at the record in MLflow's own pages.

Starts MLflow's server on this machine's loopback address, on the database in the results folder, and prints
the address of each sweep's page. Ctrl-C ends it.
"""

import argparse
from pathlib import Path

EPILOG = """\
examples:
  hjepa-sweep ui
  hjepa-sweep ui --results /data/results --port 8080 --open

To compare trials: open the sweep's page, tick the box above the runs, and press Compare; or, without
ticking, the chart view of the same page. Parameters have their dotted keys.
"""
PORT = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"port to listen on; 0: any free one (default: {PORT})"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser, too")


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C; the exit status."""
    from orchestrator.tracking.server import serve

    return serve(Path(options.results), options.port, options.open)
