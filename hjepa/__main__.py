"""`hjepa-train`, also as `python -m hjepa`, which torchrun starts."""

import signal
import sys

from hjepa.memory import take_huge_pages
from hjepa.streams import run_heard


def main() -> int:
    """Run the command line; the exit status."""
    return run_heard("hjepa-train", _run)


def _run() -> int:
    try:
        take_huge_pages()
        from hjepa.cli import main as run  # takes seconds, for torch
    except KeyboardInterrupt:
        print("\nhjepa-train: interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT
    return run()


if __name__ == "__main__":
    sys.exit(main())
