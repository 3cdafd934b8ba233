"""Check configs without training: what they resolve to, how large the model is, what is unwise.

Reads no data set and builds no weights, so that it is quick for any size.
"""

import argparse
import sys
from pathlib import Path

from hjepa.advice import advice, without_effect
from hjepa.catalog import find_config
from hjepa.config import RunConfig, load_layers
from hjepa.measure import measure
from hjepa.schema import ConfigError, Layers, parse_overrides, to_yaml

USER_ERROR = 2

EPILOG = """\
examples:
  hjepa-train check configs/core/default.yaml
  hjepa-train check --brief configs/*/*.yaml
  hjepa-train check configs/quick/digits.yaml --set model.depth=12 --brief

exit status: 0 all are valid, whatever the warnings; 2 one at least is not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("configs", metavar="FILE", nargs="+", help="YAML config, or the bare name of one")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="override one key; may be repeated"
    )
    parser.add_argument("--brief", action="store_true", help="leave out the resolved config")


def run(options: argparse.Namespace) -> int:
    """Check every file; the exit status."""
    overrides = parse_overrides(options.set)
    wrong = 0
    for number, given in enumerate(options.configs):
        if number:
            print()
        try:
            path = find_config(given)
            layers = load_layers(path, overrides)
            config = layers.build(RunConfig, str(path))
        except ConfigError as error:
            wrong += 1
            print(f"hjepa-train: {error}", file=sys.stderr)
            continue
        print(f"# {path}")
        if not options.brief:
            print(to_yaml(config), end="")
        print(*(f"# {line}" for line in measure(config).lines()), sep="\n")
        for line in warnings(config, layers, path):
            print(f"# warning: {line}")
    return USER_ERROR if wrong else 0


def warnings(config: RunConfig, layers: Layers, path: Path) -> list[str]:
    """What is legal and unwise, and what the file or the command line set that has no effect."""
    inert = without_effect(config, layers, path)
    return [*advice(config), *(f"{key}: {words}." for key, words in inert.items())]
