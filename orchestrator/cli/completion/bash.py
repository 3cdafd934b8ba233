"""The script for bash 4 and newer."""

from collections.abc import Iterator

from orchestrator.cli.completion.commands import Program
from orchestrator.cli.completion.posix import choose_command, function_name, tables

_OFFER = r"""
_hjepa_offer() {  # kind, begun word, results folder, config keys
    local found word IFS=$'\n'
    case "$1" in
        any|flag) return ;;
        key)
            compopt -o nospace 2>/dev/null
            COMPREPLY+=($(compgen -S = -W "${4// /$'\n'}" -- "$2")) ;;
        folder)
            compopt -o filenames 2>/dev/null
            COMPREPLY+=($(compgen -d -- "$2")) ;;
        yaml)
            compopt -o filenames 2>/dev/null
            COMPREPLY+=($(compgen -d -- "$2"))
            for word in '!*.yaml' '!*.yml'; do
                COMPREPLY+=($(compgen -f -X "$word" -- "$2"))
            done ;;
        file)
            compopt -o filenames 2>/dev/null
            COMPREPLY+=($(compgen -f -- "$2")) ;;
        sweep)
            for found in "$3"/*/definition.json; do
                word=${found%/definition.json}
                word=${word##*/}
                [[ -e $found && $word == "$2"* ]] && COMPREPLY+=("$word")
            done ;;
        *) COMPREPLY+=($(compgen -W "${1// /$'\n'}" -- "$2")) ;;
    esac
}
"""


def script(programs: list[Program]) -> str:
    """What bash is to read."""
    functions = "\n".join(line for program in programs for line in _function(program))
    return f"# Completion of {' and '.join(p.name for p in programs)} for bash.\n{_OFFER}\n{functions}"


def _function(program: Program) -> Iterator[str]:
    name = function_name(program)
    yield f"{name}() {{"
    yield '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD - 1]}"'
    yield "    local command options positional kind= results=results i"
    yield f"    local keys='{' '.join(program.keys)}'"
    yield "    COMPREPLY=()"
    yield from choose_command(program, "${COMP_WORDS[1]}")
    yield "    for ((i = 1; i < COMP_CWORD - 1; i++)); do"
    yield '        [[ ${COMP_WORDS[i]} == --results ]] && results="${COMP_WORDS[i + 1]}"'
    yield "    done"
    yield from tables(program)
    yield "    if [[ -z $kind && $cur == -* ]]; then"
    yield '        kind="$options"'
    yield "    elif [[ -z $kind ]]; then"
    yield '        kind="$positional"'
    yield f'        ((COMP_CWORD == 1)) && _hjepa_offer "{" ".join(program.commands)}" "$cur"'
    yield "    fi"
    yield '    _hjepa_offer "$kind" "$cur" "$results" "$keys"'
    yield "}"
    yield f"complete -F {name} {program.name}"
