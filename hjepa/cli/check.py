"""Check configs without training: what they resolve to, how large the model is, what is unwise.

Reads no data set and builds no weights, so that it is quick for any size.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hjepa.advice import advice
from hjepa.catalog import find_config
from hjepa.config import RunConfig, load_layers
from hjepa.measure import measure
from hjepa.schema import Config, ConfigError, Layers, dotted, inert_reason, parse_overrides, to_yaml

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
    """What is legal and unwise, and what the file or the command line set that has no effect.

    What a file takes over from those that it extends is not its own to mend.
    """
    found = list(advice(config))
    for key, value, default in _settings(config):
        reason = inert_reason(config, key)
        source = layers.sources.get(key.partition("[")[0], "")
        own = source == str(path) or source.startswith("--set")
        if reason and own and value != default:
            found.append(f"{key}: is set ({source}) and has no effect: {reason}.")
    return found


def _settings(config: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """Every key with its value and its default; after a list, its elements, and the keys of those that are
    maps, as `training.betas[1]` and `data.datasets[0].path`."""
    defaults = dotted(RunConfig())
    for key, value in dotted(config).items():
        yield key, value, defaults[key]
        elements: tuple[Any, ...] = value if isinstance(value, tuple) else ()
        for number, element in enumerate(elements):
            where = f"{key}[{number}]"
            if isinstance(element, Config):
                for name, field in type(element).model_fields.items():
                    yield f"{where}.{name}", getattr(element, name), field.default
            else:
                yield where, element, next(iter(defaults[key][number : number + 1]), None)
