"""What can follow what on a command line, read from its parser."""

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

YAML, FILE, FOLDER, KEY, SWEEP, ANY, FLAG = "yaml", "file", "folder", "key", "sweep", "any", "flag"
"""What an argument is; FLAG is an option without one. Anything else is a list of words."""

_KINDS = {
    "space": YAML,
    "spaces": YAML,
    "base": YAML,
    "config": YAML,
    "configs": YAML,
    "set": KEY,
    "name": SWEEP,
    "names": SWEEP,
    "results": FOLDER,
    "output": FILE,
    "checkpoint": FILE,
}
"""Kinds of hjepa-sweep's arguments, by their names in its parser."""


class Command(NamedTuple):
    """A subcommand."""

    about: str
    options: Mapping[str, str]
    """What follows each option, in its long form and its short one."""
    positional: str
    """What its other arguments are."""


class Program(NamedTuple):
    """A command with its subcommands."""

    name: str
    default: str
    """The subcommand where none is written."""
    commands: Mapping[str, Command]
    keys: Sequence[str]
    """Dotted config keys that --set takes."""


def read_commands(parser: argparse.ArgumentParser) -> dict[str, Command]:
    """The subcommands of a parser."""
    (actions,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    about = {choice.dest: choice.help or "" for choice in actions._choices_actions}
    return {name: _read(about.get(name, ""), command) for name, command in actions.choices.items()}


def _read(about: str, parser: argparse.ArgumentParser) -> Command:
    found = [(action, _kind(action)) for action in parser._actions]
    options = {o: kind for action, kind in found for o in action.option_strings}
    positional = next((kind for action, kind in found if not action.option_strings), ANY)
    return Command(about, options, positional)


def _kind(action: argparse.Action) -> str:
    if action.nargs == 0:
        return FLAG
    if action.choices is not None:
        return " ".join(map(str, action.choices))
    return _KINDS.get(action.dest, ANY)
