"""`hjepa-train`, also as `python -m hjepa`: its commands, and what they have in common."""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hjepa.catalog import is_config
from hjepa.cli import check, fetch, migrate, train
from hjepa.cli.train import INTERRUPTED
from hjepa.schema import ConfigError
from hjepa.slips import Parser, meant_command
from hjepa.streams import USER_ERROR

COMMANDS = {"train": train, "check": check, "migrate": migrate, "fetch": fetch}
"""Each command is a module: its docstring's first line is the command's help, `add_arguments` takes its
parser, `run` its options and gives the exit status, and EPILOG stands below its help."""

EPILOG = """\
A config in place of a command means `train`: hjepa-train configs/quick/digits.yaml.
`hjepa-train COMMAND --help` tells more of each.

exit status: 0 done, 1 the run failed or collapsed, 2 something is wrong with what was asked,
130 interrupted, by Ctrl-C or SIGTERM.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    root = parser()
    if not given:
        root.print_help(sys.stderr)
        return USER_ERROR
    if given[0] not in COMMANDS and not given[0].startswith("-"):
        near = meant_command(given[0], COMMANDS)
        if near and not is_config(given[0]):
            print(f"hjepa-train: {given[0]}: no such command or file. Nearest: {near}.", file=sys.stderr)
            return USER_ERROR
        given = ["train", *given]
    options = root.parse_args(given)
    try:
        with _sigterm_interrupts():
            return COMMANDS[options.command].run(options)
    except KeyboardInterrupt:
        print("\nhjepa-train: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except ConfigError as error:
        print(f"hjepa-train: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"hjepa-train: {where}{error.strerror or error}", file=sys.stderr)
        return USER_ERROR


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Within, SIGTERM, as a scheduler sends it, is as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    """The command line of every command."""
    root = Parser(
        prog="hjepa-train",
        description="Train H-JEPA once, without Ray, and what goes with that.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        about = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name,
            help=about.splitlines()[0].rstrip("."),
            description=about,
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    return root
