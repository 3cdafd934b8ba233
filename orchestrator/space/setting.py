"""The dotted keys that a command line may set, for whoever completes it."""

from hjepa.config import RunConfig
from hjepa.schema import leaves
from orchestrator.space.config import SweepConfig

_FROM_FILE = ("base", "space", "derived", "constraints")
"""Keys of a sweep that --set does not take."""


def run_keys() -> list[str]:
    """Keys of a run's config."""
    return [key for key, _ in leaves(RunConfig)]


def sweep_keys() -> list[str]:
    """Keys of a sweep that may be set beside its file."""
    return [key for key, _ in leaves(SweepConfig) if key.partition(".")[0] not in _FROM_FILE]
