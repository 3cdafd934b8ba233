"""The script for zsh, to be read after compinit."""

from collections.abc import Iterator

from orchestrator.cli.completion.commands import Program
from orchestrator.cli.completion.posix import choose_command, function_name, tables

_OFFER = r"""
_hjepa_offer() {  # kind, results folder, config keys
    case "$1" in
        any|flag) ;;
        key) compadd -S '=' -- ${=3} ;;
        folder) _files -/ ;;
        file) _files ;;
        yaml) _files -g '*.(yaml|yml)' ;;
        sweep) compadd -- "$2"/*/definition.json(N:h:t) ;;
        *) compadd -- ${=1} ;;
    esac
}
"""


def script(programs: list[Program]) -> str:
    """What zsh is to read."""
    functions = "\n".join(line for program in programs for line in _function(program))
    return f"# Completion of {' and '.join(p.name for p in programs)} for zsh.\n{_OFFER}\n{functions}"


def _function(program: Program) -> Iterator[str]:
    name = function_name(program)
    yield f"{name}() {{"
    yield '    local cur="${words[CURRENT]}" prev="${words[CURRENT - 1]}"'
    yield "    local command options positional kind= results=results"
    yield "    local -i i"
    yield f"    local keys='{' '.join(program.keys)}'"
    yield from choose_command(program, "${words[2]}")
    yield "    for ((i = 2; i < CURRENT - 1; i++)); do"
    yield '        [[ ${words[i]} == --results ]] && results="${words[i + 1]}"'
    yield "    done"
    yield from tables(program)
    yield "    if [[ -z $kind && $cur == -* ]]; then"
    yield '        kind="$options"'
    yield "    elif [[ -z $kind ]]; then"
    yield '        kind="$positional"'
    yield f'        ((CURRENT == 2)) && _hjepa_offer "{" ".join(program.commands)}"'
    yield "    fi"
    yield '    _hjepa_offer "$kind" "$results" "$keys"'
    yield "}"
    yield f"compdef {name} {program.name}"
