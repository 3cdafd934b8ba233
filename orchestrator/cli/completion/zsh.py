"""The script for zsh, to be read after compinit."""

from orchestrator.cli.completion.commands import Program
from orchestrator.cli.completion.posix import Dialect, function

_OFFER = r"""
_hjepa_offer() {  # a kind of word, for the function that calls it
    case "$1" in
        any|flag) ;;
        key) compadd -S '=' -- ${=keys} ;;
        folder) _files -/ ;;
        file) _files ;;
        yaml) _files -g '*.(yaml|yml)' ;;
        sweep) compadd -- "$results"/*/definition.json(N:h:t) ;;
        *) compadd -- ${=1} ;;
    esac
}
"""
_ZSH = Dialect(
    word='"${words[CURRENT]}"',
    previous='"${words[CURRENT - 1]}"',
    command='"${words[2]}"',
    is_first="((CURRENT == 2))",
    folder="""
    for ((i = 2; i < CURRENT - 1; i++)); do
        [[ ${words[i]} == --results ]] && results="${words[i + 1]}"
    done
""",
    register="compdef FUNCTION PROGRAM",
)


def script(programs: list[Program]) -> str:
    """What zsh is to read."""
    functions = "\n".join(function(program, _ZSH) for program in programs)
    return f"# Completion of {' and '.join(p.name for p in programs)} for zsh.\n{_OFFER}\n{functions}"
