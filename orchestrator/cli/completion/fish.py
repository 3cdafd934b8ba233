"""The script for fish 3 and newer."""

from collections.abc import Iterator

from orchestrator.cli.completion.commands import ANY, FILE, FLAG, FOLDER, KEY, SWEEP, YAML, Program
from orchestrator.cli.completion.posix import function_name

_HELPERS = r"""
function __hjepa_yaml
    set -l begun (commandline -ct | string unescape)
    for file in $begun*
        if test -d $file
            echo $file/
        else if string match -qr '\\.ya?ml$' $file
            echo $file
        end
    end
end
function __hjepa_sweeps
    set -l given (commandline -opc)
    set -l results results
    if set -l at (contains -i -- --results $given)
        set results $given[(math $at + 1)]
    end
    for file in $results/*/definition.json
        basename (dirname $file)
    end
end
"""


def script(programs: list[Program]) -> str:
    """What fish is to read."""
    functions = "\n".join(line for program in programs for line in _completions(program))
    return f"# Completion of {' and '.join(p.name for p in programs)} for fish.\n{_HELPERS}\n{functions}"


def _completions(program: Program) -> Iterator[str]:
    name, commands = f"_{function_name(program)}", " ".join(program.commands)
    yield f"function {name}"
    yield "    set -l given (commandline -opc)"
    yield f"    if set -q given[2]; and contains -- $given[2] {commands}"
    yield "        echo $given[2]"
    yield "    else"
    yield f"        echo {program.default}"
    yield "    end"
    yield "end"
    yield f"function {name}_keys"
    yield "    printf '%s=\\n' " + " ".join(program.keys)
    yield "end"
    begin = f"complete -c {program.name}"
    yield f"{begin} -f"
    for command, (about, options, positional) in program.commands.items():
        first = "test (count (commandline -opc)) -eq 1"
        yield f"{begin} -n '{first}' -a {command} -d {_quoted(about)}"
        here = f"-n 'test ({name}) = {command}'"
        if offered := _offered(positional, name):
            yield f"{begin} {here} {offered}"
        for option, kind in options.items():
            takes = "" if kind == FLAG else " -x"
            named = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            yield f"{begin} {here} {named}{takes} {_offered(kind, name)}".rstrip()


def _offered(kind: str, name: str) -> str:
    if kind in (ANY, FLAG):
        return ""
    calls = {
        YAML: "(__hjepa_yaml)",
        SWEEP: "(__hjepa_sweeps)",
        FOLDER: "(__fish_complete_directories)",
        FILE: "(__fish_complete_path)",
        KEY: f"({name}_keys)",
    }
    return f"-a {_quoted(calls.get(kind, kind))}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
