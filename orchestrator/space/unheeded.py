"""What the base of a sweep says in vain: keys that matter in none of its trials, and those of hjepa-train."""

from collections.abc import Iterator
from pathlib import Path

from hjepa.advice import own_settings, without_effect
from hjepa.schema import Layers, inert_keys
from orchestrator.space.checks import tried
from orchestrator.space.keys import under
from orchestrator.space.sweep import Sweep

OF_TRAIN = ("logging", "checkpoint")
"""Sections that hjepa-train alone goes by."""
_NAMES = ("logging.experiment_name", "logging.description")
"""Of these the keys that ask for nothing."""


def unheeded(sweep: Sweep, layers: Layers, path: Path) -> Iterator[str]:
    """A line for each key that the base's file `path` or the command line set, and that no trial goes by."""
    idle = without_effect(sweep.base, layers, path)
    asked = [key for key, _ in own_settings(sweep.base, layers, path) if under(key, OF_TRAIN)]
    asked = [key for key in asked if key not in idle and key not in _NAMES]
    varied = [*sweep.config.space, *sweep.rules.derived, *OF_TRAIN]
    idle = {key: words for key, words in idle.items() if not under(key, varied)}
    for values in tried(sweep) if idle else ():
        still = inert_keys(sweep.build(values))
        idle = {key: words for key, words in idle.items() if under(key, still)}
        if not idle:
            break
    for key, words in idle.items():
        yield f"{key}: {words}."
    if asked:
        yield (
            f"{', '.join(asked)}: for hjepa-train alone, without effect in a sweep, which records its "
            "trials in their folders and in MLflow, and keeps their newest checkpoints."
        )
