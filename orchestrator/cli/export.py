"""A trial's config as YAML, and its checkpoint.

The config runs by hjepa-train, without Ray. A trial that was stopped early keeps no checkpoint.
"""

import argparse
from pathlib import Path

from orchestrator.cli.going import add_storage

EPILOG = """\
examples:
  hjepa-sweep export fpn --trial 23
  hjepa-sweep export fpn --trial 23 -o winner.yaml --checkpoint winner.pt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help="name of the sweep; `hjepa-sweep list` shows them")
    parser.add_argument("--trial", required=True, metavar="ID", help="its number, such as 23 or 0023")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="file of the config (default: print it)"
    )
    parser.add_argument("--checkpoint", metavar="FILE", type=Path, help="copy its newest checkpoint there")
    add_storage(parser, "the sweep's")


def run(options: argparse.Namespace) -> int:
    """Write it; the exit status."""
    from orchestrator.config_file import config_yaml
    from orchestrator.definition import copy_whole, find_sweep, write_whole
    from orchestrator.reporting.material import read_material
    from orchestrator.space import ConfigError
    from orchestrator.storage.checkpoints import checkpoints, up_to
    from orchestrator.storage.depot import depot_in

    material = read_material(find_sweep(Path(options.results), options.name), options.storage)
    record = material.trial(options.trial)
    folder = material.folder / "trials" / record.id
    depot = depot_in(material.folder) if options.checkpoint else None
    kept = [path.name for path in checkpoints(folder, material.epochs(record))]
    if depot is not None:
        kept = up_to(depot.folder(record).names(), material.epochs(record)) or kept
    if options.checkpoint and not kept:
        how = f"it was {record.outcome}" if record.outcome else "it has written none yet"
        where = folder if depot is None else depot.folder(record)
        raise ConfigError(f"--checkpoint: trial {record.id} has none in {where}: {how}.")
    text = config_yaml(material.sweep, record, str(options.output or "FILE"))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.output, text)
        print(options.output)
    else:
        print(text, end="")
    if options.checkpoint:
        options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if depot is not None and not (folder / kept[0]).exists():
            depot.folder(record).fetch(kept[0], options.checkpoint)
        else:
            copy_whole(folder / kept[0], options.checkpoint)
        if options.output:
            print(options.checkpoint)
    return 0
