"""The best config of a sweep, with its figures.

That of the trial that ran longest and did best so far. Its figure was chosen for being the best; `confirm` in
the space runs it again with fresh seeds.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.going import FAILED, add_storage

if TYPE_CHECKING:
    from orchestrator.reporting.material import Material

EPILOG = """\
examples:
  hjepa-sweep best fpn
  hjepa-sweep best fpn --yaml > winner.yaml
  hjepa-sweep best fpn --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help="name of the sweep; `hjepa-sweep list` shows them")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--yaml", action="store_true", help="its config alone, for hjepa-train")
    kind.add_argument("--json", action="store_true", help="as one JSON object")
    add_storage(parser, "the sweep's")


def run(options: argparse.Namespace) -> int:
    """Show it; the exit status."""
    from orchestrator.config_file import config_yaml
    from orchestrator.definition import find_sweep
    from orchestrator.reporting.material import read_material
    from orchestrator.reporting.words import summary

    material = read_material(find_sweep(Path(options.results), options.name), options.storage)
    best = material.best
    if options.yaml and best is not None:
        print(config_yaml(material.sweep, best, "FILE", chosen=True), end="")
    elif options.json:
        print(json.dumps(_data(material), indent=1))
    else:
        print("\n".join([*_config(material), *summary(material)]))
    return FAILED if best is None else 0


def _config(material: "Material") -> list[str]:
    best = material.best
    if best is None:
        return []
    shown = material.sweep.labels(material.values_of(best))
    return [f"trial {best.id}, {best.role}", *(f"  {key}: {text}" for key, text in shown.items())]


def _data(material: "Material") -> dict[str, Any]:
    best, base = material.best, material.base
    found: dict[str, Any] = {"sweep": material.name, "metric": material.metric}
    for name, record in (("best", best), ("base", base)):
        last = record.last(material.metric) if record else None
        found[name] = (
            {"trial": record.id, "value": last[1], "epoch": last[0], "values": material.values_of(record)}
            if record and last
            else None
        )
    return found
