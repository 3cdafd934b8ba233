"""Conversion of one old file: every key of it becomes a row, and the rows make the new config."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from hjepa.config import RunConfig, load_config
from hjepa.legacy.reading import Entry, OldFile, read_old
from hjepa.legacy.rules import RENAMED, SPECIAL, UNREAD, Change, old_names, to_number
from hjepa.schema import ConfigError, Layers, inert_reason, leaves, nearest_key, resolve_key


@dataclass(frozen=True)
class Row:
    """What became of one old key."""

    line: int
    old_key: str
    new_key: str | None
    """None: no key takes it, and `why` says for what reason."""
    old_value: Any
    new_value: Any
    why: str
    """Empty where key and value are what they were."""


@dataclass(frozen=True)
class Migration:
    """An old file's conversion."""

    path: Path
    config: RunConfig
    text: str
    """The new file."""
    rows: list[Row]
    notes: list[str]
    unchanged: bool
    """The file was canonical already; `text` is its own."""


@dataclass(frozen=True)
class _Claim:
    """An old key's claim on a new one."""

    entry: Entry
    change: Change


def migrate(path: Path) -> Migration:
    """Convert an old-style file; a canonical one comes out as it is.

    Raises ConfigError, which names the line, for what cannot be converted: an unknown key, two keys
    that contradict one another, a value that no key takes. Nothing is left out without a row.
    """
    old = read_old(path)
    canonical = _canonical(old)
    if canonical is not None:
        return Migration(path, canonical, old.text, [], [], unchanged=True)
    claims = [_Claim(entry, change) for entry in old.entries.values() for change in _changes(old, entry)]
    winners = _winners(old, claims)
    config = _build(old, winners)
    rows = [_row(claim, winners, config) for claim in claims]
    notes = []
    if old.documents > 1:
        notes.append(f"holds {old.documents} YAML documents: the first counts, as it did in the old code.")
    return Migration(path, config, _text(old, winners), rows, notes, unchanged=False)


def _canonical(old: OldFile) -> RunConfig | None:
    """The config, where the file needs no conversion."""
    if old.documents > 1:
        return None
    if "extends" in old.entries:  # the old format had no such key
        return load_config(old.path)
    layers = Layers()
    layers.add(old.data, str(old.path))
    try:
        return layers.build(RunConfig, str(old.path))
    except ConfigError:
        return None


def _changes(old: OldFile, entry: Entry) -> Iterator[Change]:
    key, value = entry.key, entry.value
    if key in SPECIAL:
        yield from SPECIAL[key](old, key, value)
    elif key in RENAMED:
        yield Change(RENAMED[key], value, "")
    elif value is None and _is_section(key):
        yield Change(None, None, "an empty section")
    elif key in _KEYS:
        yield Change(key, value, "")
    elif _is_section(key):
        raise old.error(
            key, f"{_show(repr(value))} is not allowed: a section, must be a map of keys to values."
        )
    else:
        raise old.error(key, f"no such key, then or now.\n{_nearest(key)}")


_KEYS = dict(leaves(RunConfig))


def _is_section(key: str) -> bool:
    return any(known.startswith(f"{key}.") for known in [*_KEYS, *old_names()])


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, [*_KEYS, *old_names()], n=1, cutoff=0.6)
    return f"Nearest: {near[0]}." if near else nearest_key(RunConfig, key)


def _winners(old: OldFile, claims: list[_Claim]) -> dict[str, _Claim]:
    """For each new key the claim that counts: what the old code read, before what it did not."""
    found: dict[str, _Claim] = {}
    for claim in claims:
        new = claim.change.new
        if new is None:
            continue
        claim = _Claim(claim.entry, _fitted(old, claim))
        rival = found.get(new)
        if rival is None or _rank(claim) > _rank(rival):
            found[new] = claim
        elif _rank(claim) == _rank(rival) and claim.change.value != rival.change.value:
            raise ConfigError(
                f"{old.path}: line {rival.entry.line}: {rival.entry.key} and line {claim.entry.line}: "
                f"{claim.entry.key} both stand for {new} and contradict one another: "
                f"{_show(rival.change.value)} and {_show(claim.change.value)}. Keep one."
            )
    return found


def _rank(claim: _Claim) -> int:
    return int(claim.entry.key not in UNREAD)


def _fitted(old: OldFile, claim: _Claim) -> Change:
    """The change with its value as the new key's type: numbers that YAML read as text are numbers."""
    change = claim.change
    assert change.new is not None
    field = resolve_key(RunConfig, change.new)
    types = _types(field.annotation)
    value = change.value
    if isinstance(value, list) and not isinstance(next(iter(value), None), dict):
        value = [_number(item, types) for item in value]
    else:
        value = _number(value, types)
    if value == change.value and type(value) is type(change.value):
        return change
    why = f"{_show(change.value)} is a number" if isinstance(change.value, str) else change.why
    return Change(change.new, value, "; ".join(filter(None, [change.why, why])))


def _types(annotation: Any) -> set[type]:
    """The plain types within an annotation."""
    members = get_args(annotation)
    if not members:
        return {annotation} if isinstance(annotation, type) else set()
    return {found for member in members for found in _types(member)}


def _number(value: Any, types: set[type]) -> Any:
    if isinstance(value, bool) or str in types or not types & {int, float}:
        return value
    return to_number(value, whole=float not in types)


def _build(old: OldFile, winners: dict[str, _Claim]) -> RunConfig:
    layers = Layers()
    for key, claim in winners.items():
        layers.set(key, claim.change.value, f"{old.path}: line {claim.entry.line}: {claim.entry.key}")
    return layers.build(RunConfig, str(old.path))


_NOWHERE = "the old code read it nowhere"


def _row(claim: _Claim, winners: dict[str, _Claim], config: RunConfig) -> Row:
    entry, new = claim.entry, claim.change.new
    if new is None:
        reasons = [claim.change.why, _NOWHERE if entry.key in UNREAD else ""]
        return Row(entry.line, entry.key, None, entry.value, None, "; ".join(filter(None, reasons)))
    winner = winners[new]
    reasons = [winner.change.why if winner.entry == entry else claim.change.why]
    if winner.entry != entry:
        said = f"{winner.entry.key} (line {winner.entry.line}) says it"
        same = winner.change.value == claim.change.value
        reasons = [said if same else f"{said} otherwise, and was what the old code read"]
    elif new != entry.key and not any(reasons):
        reasons.append("renamed")
    inert = inert_reason(config, new) if winner.entry == entry else None
    if winner.entry == entry and entry.key in UNREAD:
        reasons.append(_NOWHERE if inert else f"{_NOWHERE}; it counts now")
    if inert:
        reasons.append(f"no effect here: {inert}")
    value = winner.change.value
    return Row(entry.line, entry.key, new, entry.value, value, "; ".join(filter(None, reasons)))


def _text(old: OldFile, winners: dict[str, _Claim]) -> str:
    """The new file: what the old one said, in the order of the schema."""
    nested: dict[str, Any] = {}
    for key in sorted(winners, key=list(_KEYS).index):
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = winners[key].change.value
    body = yaml.safe_dump(nested, sort_keys=False, default_flow_style=None, width=100)
    return f"# Converted from {old.path.name} by `hjepa-train migrate`.\n{body}"


def table(migration: Migration) -> list[str]:
    """The rows as lines of text, under a heading, columns aligned."""
    head = ("line", "old key", "new key", "old value", "new value", "why")
    cells = [head, *(_cells(row) for row in migration.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head) - 1)]
    return ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in cells]


def _cells(row: Row) -> tuple[str, ...]:
    same = row.new_key == row.old_key
    kept = row.new_value == row.old_value and type(row.new_value) is type(row.old_value)
    return (
        str(row.line),
        row.old_key,
        "-" if row.new_key is None else "same" if same else row.new_key,
        _show(row.old_value),
        "-" if row.new_key is None else "same" if kept else _show(row.new_value),
        row.why,
    )


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
