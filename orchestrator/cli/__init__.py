"""`hjepa-sweep`: its commands, and what they have in common."""

import argparse
import os
import sys

from orchestrator import use_cluster
from orchestrator.cli import (
    best,
    check,
    compare,
    completion,
    doctor,
    export,
    fetch,
    listing,
    logs,
    plan,
    report,
    reproduce,
    resume,
    retry,
    run,
    status,
    stop,
    submit,
    sync,
    ui,
)
from orchestrator.cli.going import INTERRUPTED, USER_ERROR, hide_passwords, reason_of
from orchestrator.space import ConfigError, Parser, meant_command, run_heard

COMMANDS = {
    "run": run,
    "resume": resume,
    "status": status,
    "list": listing,
    "report": report,
    "best": best,
    "export": export,
    "compare": compare,
    "reproduce": reproduce,
    "submit": submit,
    "logs": logs,
    "fetch": fetch,
    "stop": stop,
    "retry": retry,
    "sync": sync,
    "check": check,
    "plan": plan,
    "doctor": doctor,
    "completion": completion,
    "ui": ui,
}
"""Each command is a module: its docstring is the command's help, `add_arguments` takes its parser, `run`
its options and gives the exit status, and EPILOG stands below its help."""

EPILOG = """\
examples:
  hjepa-sweep search_spaces/fpn.yaml          begin a sweep, or go on with it
  hjepa-sweep status fpn                      from another shell, while it runs or afterwards
  hjepa-sweep resume fpn                      go on with an interrupted sweep, by its name

A search space in place of a command means `run`. `hjepa-sweep COMMAND --help` tells more of each.

exit status: 0 done, 1 no trial came to an end or Ray died, 2 something is wrong with what was
asked, 3 done, but some trials failed, 130 interrupted.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    return run_heard("hjepa-sweep", lambda: _interruptible(arguments))


def _interruptible(arguments: list[str] | None) -> int:
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # outside of what can be gone on with, as while torch is imported
        print("\nhjepa-sweep: interrupted.", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: list[str] | None) -> int:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if getattr(options, "address", None):
        use_cluster(options.address)
    if options.command == "completion":
        return completion.run(options)
    try:
        shown = hide_passwords(options)
        if shown != options.given:
            if arguments is None:
                # As it was begun: with -m the working folder would be looked into for modules.
                begun = len(sys.orig_argv) - len(sys.argv) + 1
                os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:begun], *shown])
            options = parse(shown)
        return COMMANDS[options.command].run(options)
    except BrokenPipeError:
        raise
    except (ConfigError, OSError) as error:
        print(f"hjepa-sweep: {reason_of(error)}", file=sys.stderr)
    return USER_ERROR


def parse(given: list[str]) -> argparse.Namespace:
    """The options of a command line; `options.given` is that line, with the command written out, and
    `options.parser` what has read it."""
    root = parser()
    if not given:
        root.print_help(sys.stderr)
        raise SystemExit(USER_ERROR)
    if given[0] not in COMMANDS and not given[0].startswith("-"):
        _require_no_slip(given[0])
        given = ["run", *given]
    options = root.parse_args(given)
    options.given, options.parser = given, root
    return options


def _require_no_slip(name: str) -> None:
    """Leave where `name` is nearly a command, and no file."""
    if near := meant_command(name, COMMANDS):
        print(f"hjepa-sweep: {name}: no such command or file. Nearest: {near}.", file=sys.stderr)
        raise SystemExit(USER_ERROR)


def parser() -> argparse.ArgumentParser:
    """The command line of every command."""
    root = Parser(
        prog="hjepa-sweep",
        description="Search a space of H-JEPA configs: which choice is better?",
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
        command.add_argument(
            "--results", default="results", metavar="DIR", help="where sweeps are kept (default: results)"
        )
    return root
