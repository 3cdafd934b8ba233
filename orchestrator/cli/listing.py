"""The sweeps of a results folder: how far each is, and its best; of one that cannot be read, why."""

import argparse
import json
from pathlib import Path

from orchestrator.cli.going import USER_ERROR, reason_of

EPILOG = """\
examples:
  hjepa-sweep list
  hjepa-sweep list --results /data/results --json

exit status: 0 all were read; 2 not all, which say why.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--json", action="store_true", help="as one JSON list")


def run(options: argparse.Namespace) -> int:
    """Show them; the exit status."""
    from orchestrator.definition import sweep_folders
    from orchestrator.space import ConfigError
    from orchestrator.watching.status import read_status

    folders = sweep_folders(Path(options.results))
    width = max((len(folder.name) for folder in folders), default=0)
    lines, data = [], []
    for folder in folders:
        try:
            status = read_status(folder, newest_only=True)
            line, entry = status.line(), status.data(trials=False)
        except (ConfigError, OSError) as error:
            entry = {"name": folder.name, "error": reason_of(error)}
            line = " ".join(entry["error"].splitlines())
        lines.append(f"{folder.name:{width}}  {line}")
        data.append(entry)
    if options.json:
        print(json.dumps(data, indent=1))
    else:
        print("\n".join(lines) or f"{options.results} holds no sweep.")
    return USER_ERROR if any("error" in entry for entry in data) else 0
