"""What a trial is and what a figure is, in a few words."""

import json
import math
from collections.abc import Collection

from orchestrator.study.record import REFERENCES, TrialRecord

NONE = "-"
"""Where there is no value."""


def describe(record: TrialRecord, among: Collection[str] | None = None) -> str:
    """What a trial is: its values, or that it is the base, or which one it runs again.

    With `among`, all keys of the space, each key is as short as tells it from the others.
    """
    if record.role == "base":
        return "base config"
    if record.role == "confirm":
        return f"trial {record.confirms:04d} again, seed {record.seed}"
    names = {key: key if among is None else short(key, among, 1) for key in record.values}
    return "  ".join(f"{names[key]}={_short(value)}" for key, value in record.values.items())


def short(key: str, among: Collection[str], least: int = 2) -> str:
    """As much of a dotted key's end as tells it from the others, and `least` parts at least."""
    parts = key.split(".")
    for count in range(least, len(parts)):
        end = ".".join(parts[-count:])
        if not any(f".{other}".endswith(f".{end}") for other in among if other != key):
            return end
    return key


def references(base: TrialRecord) -> dict[str, float]:
    """Accuracies that learning has to beat, by their names in words."""
    found = base.references
    return {words: found[name] for name, words in REFERENCES.items() if name in found}


def number(value: float | None) -> str:
    """A figure as tables and sentences show it."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.4g}"


def signs(*values: float) -> list[str]:
    """Differences that are told together, each with its sign: by four decimals, or by digits where even the
    largest is so small that decimals would hide it, or so large that they would hide its size."""
    largest = max(map(abs, values))
    shown = "+.3g" if 0 < largest < 1e-3 else "+.4f" if largest < 1e4 else "+.4g"
    return [format(value, shown) for value in values]


def counted(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def in_short(value: float) -> str:
    """A swept number in four digits, or as many as tell by how much it misses 1, as momenta do."""
    miss = abs(1 - value)
    digits = 1 + math.ceil(-math.log10(miss)) if 0 < miss < 1 else 0
    return f"{value:.{max(4, digits)}g}"


def told_apart(*values: float) -> list[str]:
    """Numbers along an axis, by as many digits, three or more, as place each to a hundredth of their span."""
    near = (max(values) - min(values)) / 100
    for digits in range(3, 17):
        texts = [f"{value:.{digits}g}" for value in values]
        if all(abs(float(text) - value) <= near for text, value in zip(texts, values, strict=True)):
            return texts
    return [repr(value) for value in values]


def _short(value: object) -> str:
    if isinstance(value, float):
        return in_short(value)
    return value if isinstance(value, str) else json.dumps(value)
