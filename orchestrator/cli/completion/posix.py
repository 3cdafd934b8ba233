"""What the scripts of bash and zsh have in common: which kind of word is wanted where."""

from collections.abc import Iterator

from orchestrator.cli.completion.commands import FLAG, Program


def function_name(program: Program) -> str:
    """The shell function that completes a program."""
    return "_" + program.name.replace("-", "_")


def tables(program: Program) -> Iterator[str]:
    """Lines that set `kind` by `command` and `prev`, and `options` by `command`."""
    yield '    case "$command $prev" in'
    for name, command in program.commands.items():
        for option, kind in command.options.items():
            if kind != FLAG:
                yield f'        "{name} {option}") kind="{kind}" ;;'
    yield "    esac"
    yield '    case "$command" in'
    for name, command in program.commands.items():
        options = " ".join(command.options)
        yield f'        {name}) options="{options}" positional="{command.positional}" ;;'
    yield "    esac"


def choose_command(program: Program, word: str) -> Iterator[str]:
    """Lines that set `command` by the first word of the command line."""
    yield f"    command={program.default}"
    yield f'    case "{word}" in {"|".join(program.commands)}) command="{word}" ;; esac'
