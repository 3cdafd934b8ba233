"""Two sweeps or more side by side: base, best and finalists, what differs, and whether the figures compare.

They do where metric, images, evaluation and epochs are the same; losses, where the loss is the same too.
"""

import argparse
from pathlib import Path

from orchestrator.cli.going import add_storage

EPILOG = """\
examples:
  hjepa-sweep compare fpn fpn-wider
  hjepa-sweep compare fpn loss --format md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="names of sweeps, two or more")
    parser.add_argument("--format", choices=("text", "md", "latex"), default="text", help="of the table")
    add_storage(parser, "the sweeps'")


def run(options: argparse.Namespace) -> int:
    """Show them; the exit status."""
    from orchestrator.definition import find_sweep
    from orchestrator.reporting.comparison import side_by_side, words
    from orchestrator.reporting.material import read_material
    from orchestrator.space import ConfigError

    if len(set(options.names)) < 2:
        raise ConfigError("compare: name two sweeps or more.")
    results = Path(options.results)
    sweeps = [read_material(find_sweep(results, name), options.storage) for name in options.names]
    table = side_by_side(sweeps)
    written = {"text": table.text, "md": table.markdown, "latex": table.latex}[options.format]
    print(written())
    print()
    print("\n".join(words(sweeps)))
    return 0
