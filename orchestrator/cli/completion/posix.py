"""What the scripts of bash and zsh have in common: which kind of word is wanted where."""

from collections.abc import Iterator
from typing import NamedTuple

from orchestrator.cli.completion.commands import FLAG, Program


class Dialect(NamedTuple):
    """How a shell says what a script needs to know."""

    word: str
    """The word that is being completed."""
    previous: str
    """The word before it."""
    command: str
    """The first word after the program."""
    is_first: str
    """Test whether that is the one being completed."""
    folder: str
    """Lines that set `results` to what follows --results."""
    register: str
    """What makes FUNCTION complete PROGRAM."""


def function_name(program: Program) -> str:
    """The shell function that completes a program."""
    return "_" + program.name.replace("-", "_")


def function(program: Program, dialect: Dialect) -> str:
    """A function that completes a program by the shell's own `_hjepa_offer`."""
    name, commands = function_name(program), list(program.commands)
    lines = [
        f"{name}() {{",
        f"    local word={dialect.word} previous={dialect.previous} command={program.default}",
        "    local options positional kind= results=results i",
        f"    local keys='{' '.join(program.keys)}'",
        f"    case {dialect.command} in {'|'.join(commands)}) command={dialect.command} ;; esac",
        dialect.folder.strip("\n"),
        *_tables(program),
        "    if [[ -z $kind && $word == -* ]]; then",
        '        kind="$options"',
        "    elif [[ -z $kind ]]; then",
        '        kind="$positional"',
        f'        {dialect.is_first} && _hjepa_offer "{" ".join(commands)}"',
        "    fi",
        '    _hjepa_offer "$kind"',
        "}",
        dialect.register.replace("FUNCTION", name).replace("PROGRAM", program.name),
    ]
    return "\n".join(lines)


def _tables(program: Program) -> Iterator[str]:
    """Lines that set `kind` by the command and the word before, and `options` by the command."""
    yield '    case "$command $previous" in'
    for name, command in program.commands.items():
        for option, kind in command.options.items():
            if kind != FLAG:
                yield f'        "{name} {option}") kind="{kind}" ;;'
    yield "    esac"
    yield '    case "$command" in'
    for name, command in program.commands.items():
        options = " ".join(option for option in command.options if option.startswith("--"))
        yield f'        {name}) options="{options}" positional="{command.positional}" ;;'
    yield "    esac"
