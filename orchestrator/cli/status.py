"""How a sweep stands, from any shell, while it runs and afterwards.

Reads the record without locking out the sweep that writes it, and changes nothing. Without a name, the
sweep that was written to last. The times are from proposal to end, waits and interruptions included; how
long trials trained is in `report --format csv`.

--watch shows the table that the sweep itself shows, and ends with it; not on a terminal, a line whenever
something has changed. Ctrl-C ends the watching, with exit status 0; the sweep does not hear of it.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.going import add_storage, require_alone

if TYPE_CHECKING:
    from orchestrator.watching.status import Status

EPILOG = """\
examples:
  hjepa-sweep status
  hjepa-sweep status fpn
  hjepa-sweep status fpn --watch
  hjepa-sweep status fpn --json | jq .best
  hjepa-sweep status fpn --to ray             of a sweep that `submit` sent there
"""
WATCH_S, LEAST_S = 2.0, 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", nargs="?", help="name of the sweep; `hjepa-sweep list` shows them")
    add_storage(parser, "the sweep's")
    parser.add_argument("--json", action="store_true", help="the whole of it as one JSON object")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--to", metavar="PROFILE", help="the Ray cluster that it was submitted to")
    where.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=WATCH_S,
        metavar="SECONDS",
        help=f"show the sweep's table, drawn anew every SECONDS ({WATCH_S:g}), until it ends or Ctrl-C",
    )


def run(options: argparse.Namespace) -> int:
    """Show it; the exit status."""
    from orchestrator.definition import find_sweep
    from orchestrator.space import ConfigError
    from orchestrator.study.place import copy_in
    from orchestrator.watching.status import newest_sweep, read_status

    if options.to:
        return _elsewhere(options)
    results = Path(options.results)
    folder = find_sweep(results, options.name) if options.name else newest_sweep(results)
    if options.watch is not None:
        if options.json:
            raise ConfigError("--watch and --json exclude each other.")
        return _watch(lambda: read_status(folder, options.storage), options.watch)
    status = read_status(folder, options.storage, newest_only=True)
    if options.storage is None and (copy := copy_in(folder)) is not None:
        print(f"hjepa-sweep: {folder.name} is {copy}", file=sys.stderr)
    print(json.dumps(status.data(), indent=1) if options.json else status.words())
    return 0


def _elsewhere(options: argparse.Namespace) -> int:
    from orchestrator.cluster.profile import load_profile  # imports torch
    from orchestrator.space import ConfigError

    require_alone(options, "storage")
    if not options.name:
        raise ConfigError("--to: name the sweep too.")
    answer = load_profile(options.to).status(options.name, options.json)
    print(answer.text.rstrip())
    return answer.status


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not LEAST_S <= seconds < math.inf:
        hint = "; the sweep's name stands before --watch" if math.isnan(seconds) else ""
        raise argparse.ArgumentTypeError(f"{text}: must be a number, of at least {LEAST_S:g} seconds{hint}")
    return seconds


def _watch(read: "Callable[[], Status]", every_s: float) -> int:
    """Show what `read` finds until the sweep does not run; the exit status."""
    try:
        _draw(read, every_s) if sys.stdout.isatty() else _print_changes(read, every_s)
    except KeyboardInterrupt:
        return 0
    return 0


def _draw(read: "Callable[[], Status]", every_s: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from orchestrator.watching.table import SweepTable

    status = read()
    with Live(SweepTable(status), console=Console(), auto_refresh=False) as live:
        while status.runs:
            time.sleep(every_s)
            status = read()
            live.update(SweepTable(status), refresh=True)


def _print_changes(read: "Callable[[], Status]", every_s: float) -> None:
    status, shown = read(), ""
    while True:
        if (line := f"{status.name}: {status.line()}") != shown:
            print(line, flush=True)
            shown = line
        if not status.runs:
            return
        time.sleep(every_s)
        status = read()
