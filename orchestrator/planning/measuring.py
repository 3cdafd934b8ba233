"""A process that measures a run, apart from this one: what it is told and what it answers, line by line."""

import contextlib
import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from orchestrator.process.imports import own_imports
from orchestrator.space import ConfigError, huge_pages

READY = "ready"


class Measuring:
    """A process of a module of the core's that says `ready`, and answers each line by a line of JSON."""

    def __init__(self, module: str, asked: str, gpu: int | None):
        """Start it with `asked` as its first line. It sees the GPU of that number only, with None no one."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=os.environ
            | own_imports()
            | huge_pages()
            | {"CUDA_VISIBLE_DEVICES": "" if gpu is None else visible_gpu(gpu)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.say(asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        # What it was told and never read is lost with it.
        with contextlib.suppress(BrokenPipeError), self._process:
            pass

    def say(self, text: str) -> None:
        """Tell it a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died, and what it says instead of an answer tells why

    def await_ready(self) -> None:
        """Wait until it could begin. ConfigError, with its reason, where it cannot."""
        line = self._heard()
        if line != READY:
            raise ConfigError(f"nothing could be measured: {self._reason(line)}")

    def answer(self) -> dict[str, Any]:
        """What it answers. ConfigError, with its reason, where it does not."""
        line = self._heard()
        try:
            found = json.loads(line)
        except ValueError:
            found = {}
        if not found or "error" in found:
            raise ConfigError(f"nothing could be measured: {self._reason(line)}")
        return found

    def _heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _reason(self, line: str) -> str:
        """What it said in place of an answer, or how it ended."""
        if line:
            return str(json.loads(line)["error"])
        assert self._process.stderr is not None
        last = self._process.stderr.read().strip().splitlines()[-1:]
        return last[0] if last else f"its process ended with status {self._process.wait()}"


def visible_gpu(number: int) -> str:
    """CUDA's name for the GPU of that number, of those that this process may use."""
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return given[number] if number < len(given) else str(number)
