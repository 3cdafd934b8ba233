"""What a Python of ours beside this one imports."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from orchestrator.space import ConfigError

PACKAGES = ("hjepa", "orchestrator")


def own_imports() -> dict[str, str]:
    """Variables by which it finds the modules that this process finds, and in the same order.

    Begun with -m or -c it would look into the working folder first, where there may be a `random.py`.
    """
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}


def require_own_packages() -> None:
    """Ray's processes look into the working folder first. Raises ConfigError where they would find another
    `hjepa` there than this process has, such as an older checkout."""
    for name in PACKAGES:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        for other in (Path.cwd() / name / "__init__.py", Path.cwd() / f"{name}.py"):
            if other.exists() and not other.samefile(spec.origin):
                raise ConfigError(
                    f"{other}: trials would import it in place of {spec.origin}. Begin the sweep in another "
                    "folder, or install the package from that one."
                )
