"""What a Python of ours beside this one imports."""

import os
import sys


def own_imports() -> dict[str, str]:
    """Variables by which it finds the modules that this process finds, and in the same order.

    Begun with -m or -c it would look into the working folder first, where there may be a `random.py`.
    """
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
