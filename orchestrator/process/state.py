"""The private folder of a user's sweeps on a machine, and what processes keep in it while they live."""

import os
import shutil
from pathlib import Path


def state_folder() -> Path:
    """Private folder for sockets, logs and scratch: $HJEPA_STATE_DIR, or hjepa in the user's state folder."""
    given = os.environ.get("HJEPA_STATE_DIR")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(given) if given else Path(home) / "hjepa"


def own_folder(kind: str) -> Path:
    """An empty folder of this process's own, which it has to remove; what killed ones left goes first.

    `kind` is what its name begins with, and tells such folders apart.
    """
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)  # Ray opens its own folder below to everybody
    _sweep_out(folder, kind)
    own = folder / f"{kind}{os.getpid()}"
    shutil.rmtree(own, ignore_errors=True)  # of an earlier process of that number
    own.mkdir(mode=0o700)
    return own


def _sweep_out(folder: Path, kind: str) -> None:
    """Remove what processes that were killed left behind."""
    for left in folder.glob(f"{kind}[0-9]*"):
        try:
            os.kill(int(left.name.removeprefix(kind)), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:
            pass  # alive, and another user's
