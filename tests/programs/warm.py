"""Commands as `python -m` runs them, forked from a process in which torch and the core are loaded already.

That takes three seconds of a processor, nearly all that a command takes which only refuses, reads or writes a
file. Each has its own process, folder, environment and output. The orchestrator and Ray, which look at the
environment as they are imported, are loaded by each anew.
"""

import atexit
import functools
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]


class Warm:
    """The process that they are forked from, one at a time. It ends with ours."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.programs.warm"],
            cwd=ROOT,
            env=os.environ | {"PYTHONWARNINGS": "default"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def run(
        self, module: str, arguments: Sequence[str], folder: Path, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """What `python -m module arguments` does in `folder` with the environment `env`."""
        sent, answers = self._process.stdin, self._process.stdout
        assert sent is not None
        assert answers is not None
        with tempfile.TemporaryDirectory() as scratch:
            out, err = Path(scratch, "out"), Path(scratch, "err")
            request = {
                "module": module,
                "arguments": list(arguments),
                "folder": str(folder),
                "env": dict(env),
                "output": [str(out), str(err)],
            }
            try:
                print(json.dumps(request), file=sent, flush=True)
                status = int(answers.readline())
            except BaseException:  # by pytest's timeout: the answer to come would be taken for another's
                os.killpg(self._process.pid, signal.SIGKILL)
                self.close()
                warm.cache_clear()
                raise
            return subprocess.CompletedProcess([module, *arguments], status, out.read_text(), err.read_text())

    def close(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.communicate()


@functools.cache
def warm() -> Warm:
    """The one of this process, begun when it is first asked for."""
    found = Warm()
    atexit.register(found.close)
    return found


def _serve() -> None:
    import hjepa.config  # noqa: F401

    gc.freeze()  # else the collector of each command writes to all that it shares with this process
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(
    module: str, arguments: list[str], folder: str, env: dict[str, str], output: list[str]
) -> NoReturn:
    """Be the command, to the end of this process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(output, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.path[0], sys.argv = folder, [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = int(end.code or 0)
    else:
        status = 0
    # As at any end of Python, but for its taking down torch, which takes a second.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
