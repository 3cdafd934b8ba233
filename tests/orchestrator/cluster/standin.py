"""A program that is not here, in its place on the path: it notes what it is called with, and answers."""

import json
from pathlib import Path
from typing import Any

from tests.workplace import Workplace

_SCRIPT = """\
#!/usr/bin/env python3
import json, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent / f"{pathlib.Path(__file__).name}.told"
here.mkdir(exist_ok=True)
words = sys.argv[1:]
given = "" if sys.stdin.isatty() or "-" not in words else sys.stdin.read()
with (here / "calls").open("a") as calls:
    calls.write(json.dumps({"words": words, "input": given}) + "\\n")
for part, answer in json.loads((here / "answers").read_text()):
    if part in " ".join(words):
        print(answer["text"], end="")
        print(answer["error"], end="", file=sys.stderr)
        if answer["runs"]:
            sys.exit(subprocess.run(words[words.index("--") + 1 :]).returncode)
        sys.exit(answer["status"])
"""


class StandIn:
    """The program `name` in the workplace's own bin folder."""

    def __init__(self, workplace: Workplace, name: str):
        folder = workplace.folder / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(_SCRIPT)
        (folder / name).chmod(0o755)
        self._told = folder / f"{name}.told"
        self._told.mkdir()
        self._answers: list[tuple[str, dict[str, object]]] = []
        self._write()
        workplace.env["PATH"] = f"{folder}:{workplace.env['PATH']}"

    def answer(self, part: str, text: str = "", error: str = "", status: int = 0, runs: bool = False) -> None:
        """Answer so to a command line that has `part` in it; `runs`: run what stands after its `--`."""
        answer = {"text": text, "error": error, "status": status, "runs": runs}
        self._answers.insert(0, (part, answer))
        self._write()

    def calls(self) -> list[list[str]]:
        """The command lines so far, without the program."""
        return [call["words"] for call in self._all()]

    def given(self) -> str:
        """What stood on the standard input of the last one that had any."""
        return [call["input"] for call in self._all() if call["input"]][-1]

    def _all(self) -> list[dict[str, Any]]:
        file: Path = self._told / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _write(self) -> None:
        (self._told / "answers").write_text(json.dumps(self._answers))
