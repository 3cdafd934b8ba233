"""Python's search for unreachable cycles, which costs most where much is read and nothing thrown away."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Within, or within a function under it as a decorator, nothing is searched for.

    Whoever reads hundreds of thousands of reports would have them all looked through again and again, which
    takes a quarter of the time and finds nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def keep_for_good() -> None:
    """Leave what there is now out of every later search: a sweep's record stays as long as its process."""
    gc.freeze()
    # Some libraries (Triton's bindings) tell of all that is left of theirs once the process ends.
    atexit.register(gc.unfreeze)
