"""What a trial is and what a figure is, in a few words."""

import json
import math

from orchestrator.study.record import REFERENCES, TrialRecord

NONE = "-"
"""Where there is no value."""


def describe(record: TrialRecord, short: bool = False) -> str:
    """What a trial is: its values, or that it is the base, or which one it runs again."""
    if record.role == "base":
        return "base config"
    if record.role == "confirm":
        return f"trial {record.confirms:04d} again, seed {record.seed}"
    shown = ((key.rsplit(".", 1)[-1] if short else key, value) for key, value in record.values.items())
    return "  ".join(f"{key}={_short(value)}" for key, value in shown)


def references(base: TrialRecord) -> dict[str, float]:
    """Accuracies that learning has to beat, by their names in words."""
    found = base.references
    return {words: found[name] for name, words in REFERENCES.items() if name in found}


def number(value: float | None) -> str:
    """A figure as tables and sentences show it."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.4g}"


def counted(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
