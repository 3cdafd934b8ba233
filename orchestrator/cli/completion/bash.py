"""The script for bash 4 and newer."""

from orchestrator.cli.completion.commands import Program
from orchestrator.cli.completion.posix import Dialect, function

_OFFER = r"""
_hjepa_offer() {  # a kind of word, for the function that calls it
    local found name pattern IFS=$'\n'
    case "$1" in
        any|flag) return ;;
        key)
            compopt -o nospace 2>/dev/null
            COMPREPLY+=($(compgen -S = -W "${keys// /$'\n'}" -- "$word")) ;;
        folder)
            compopt -o filenames 2>/dev/null
            COMPREPLY+=($(compgen -d -- "$word")) ;;
        yaml)
            compopt -o filenames 2>/dev/null
            COMPREPLY+=($(compgen -d -- "$word"))
            for pattern in '!*.yaml' '!*.yml'; do
                COMPREPLY+=($(compgen -f -X "$pattern" -- "$word"))
            done ;;
        file)
            compopt -o filenames 2>/dev/null
            COMPREPLY+=($(compgen -f -- "$word")) ;;
        sweep)
            for found in "$results"/*/definition.json; do
                name=${found%/definition.json}
                name=${name##*/}
                [[ -e $found && $name == "$word"* ]] && COMPREPLY+=("$name")
            done ;;
        *) COMPREPLY+=($(compgen -W "${1// /$'\n'}" -- "$word")) ;;
    esac
}
"""
_BASH = Dialect(
    word='"${COMP_WORDS[COMP_CWORD]}"',
    previous='"${COMP_WORDS[COMP_CWORD - 1]}"',
    command='"${COMP_WORDS[1]}"',
    is_first="((COMP_CWORD == 1))",
    folder="""
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD - 1; i++)); do
        [[ ${COMP_WORDS[i]} == --results ]] && results="${COMP_WORDS[i + 1]}"
    done
""",
    register="complete -F FUNCTION PROGRAM",
)


def script(programs: list[Program]) -> str:
    """What bash is to read."""
    functions = "\n".join(function(program, _BASH) for program in programs)
    return f"# Completion of {' and '.join(p.name for p in programs)} for bash.\n{_OFFER}\n{functions}"
