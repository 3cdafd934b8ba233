"""Beginning and end of both programs: streams that are closed, and output that cannot be written."""

import atexit
import gc
import os
import sys
from collections.abc import Callable

USER_ERROR = 2
UNHEARD = 128 + 13
"""As of a program that SIGPIPE ends."""


def run_heard(program: str, run: Callable[[], int]) -> int:
    """What `run` gives, the exit status of `program`, once all that it has printed is written."""
    _open_closed()
    atexit.register(leave_quietly)
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        status = UNHEARD
    except OSError as error:
        print(f"{program}: standard output: {error.strerror or error}.", file=sys.stderr)
        status = USER_ERROR
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains of what is left in its buffer
    return status


def leave_quietly() -> None:
    """The last that is done before Python takes itself apart."""
    # Else it looks for cycles in all of torch, for half a second or more.
    gc.freeze()
    # Triton's bindings, which torchvision loads and timm it, list what is left of theirs, on a page.
    if "triton" in sys.modules:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _open_closed() -> None:
    """Open nothing in place of closed streams: the next file would get their number, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the least number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
