"""Ask a running sweep to stop, and wait until it has.

As one Ctrl-C: what ends its epoch within seconds is taken in, the rest goes on from its last epoch when
the sweep is resumed. With --now, as a second Ctrl-C: it leaves at once, and still loses nothing that was
reported.
"""

import argparse
import os
import shlex
import signal
import socket
from pathlib import Path

from orchestrator.cli.going import add_storage, require_alone

EPILOG = """\
examples:
  hjepa-sweep stop fpn
  hjepa-sweep stop fpn --now
  hjepa-sweep stop fpn --to slurm             the job that `submit` sent there; returns at once

exit status: 0 stopped, or it did not run, or SLURM was asked to stop it; 1 it runs on; 2 something is
wrong with what was asked.
"""
STOP_S, NOW_S = 30.0, 15.0
ECHO_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help="name of the sweep; `hjepa-sweep list` shows them")
    add_storage(parser, "the sweep's")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--now", action="store_true", help="do not wait for running epochs")
    where.add_argument("--to", metavar="PROFILE", help="the cluster that the sweep was submitted to")


def run(options: argparse.Namespace) -> int:
    """Stop it; the exit status."""
    from orchestrator.definition import find_sweep
    from orchestrator.process.stopping import wait_for
    from orchestrator.space import ConfigError
    from orchestrator.study.place import place_of
    from orchestrator.study.reading import who_runs

    if options.to:
        require_alone(options, "storage")
        from orchestrator.cluster.profile import load_profile  # imports torch

        print(load_profile(options.to).stop(options.name))
        return 0
    folder = find_sweep(Path(options.results), options.name)
    place = place_of(folder, options.storage)
    found = who_runs(folder, place)
    if found is None:
        print(f"{options.name} is not running.")
        return 0
    if found.host != socket.gethostname():
        raise ConfigError(f"{options.name} is run by {found}; stop it there.")
    _signal(found.pid)
    if options.now and not wait_for(lambda: who_runs(folder, place) is None, ECHO_S):
        _signal(found.pid)
    if not wait_for(lambda: who_runs(folder, place) is None, NOW_S if options.now else STOP_S):
        print(f"{options.name} has been asked to stop and still runs: {found}.")
        return 1
    again = shlex.join(["hjepa-sweep", "resume", options.name, "--results", options.results])
    print(f"{options.name} has stopped. Go on with:\n  {again}")
    return 0


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
