"""A search space file on top of those that it includes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hjepa.schema import ConfigError, Layers, read_mapping

_BY_KEY = ("space", "derived")
"""Sections in which a key is replaced as a whole, and taken out by null."""


def read_layers(path: Path) -> Layers:
    """What the file and all that it includes say, in one. Raises ConfigError on a file that is none."""
    layers = Layers()
    layers.file_keys = ("include",)
    _lay(layers, path, path, ())
    return layers


def _lay(layers: Layers, path: Path, root: Path, includers: tuple[Path, ...]) -> None:
    if path.resolve() in [includer.resolve() for includer in includers]:
        circle = " -> ".join(file.name for file in (*includers, path))
        raise ConfigError(f"{root}: include: files include one another in a circle: {circle}.")
    try:
        data = read_mapping(path)
    except ConfigError as error:
        raise ConfigError(f"{includers[-1]}: include: {error}" if includers else str(error)) from None
    if "extends" in data:
        raise ConfigError(f"{path}: extends: no such config key; a search space has `include` in its place.")
    for name in _included(path, data.pop("include", [])):
        _lay(layers, path.parent / name, root, (*includers, path))
    if path != root:
        data.pop("name", None)
        if isinstance(data.get("base"), str):
            data["base"] = os.path.relpath(path.parent / data["base"], root.parent)
    _merge(layers, data, str(path))


def _included(path: Path, written: Any) -> list[str]:
    names = written if isinstance(written, list) else [written]
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"{path}: include: {name!r} is not allowed: must be a path, or a list of them.")
    return names


def _merge(layers: Layers, data: dict[str, Any], source: str) -> None:
    """Lay `data` over what is there: sections by key, constraints one after another."""
    below = layers.data.get("constraints")
    if isinstance(below, list) and isinstance(data.get("constraints"), list):
        data["constraints"] = [*below, *(text for text in data["constraints"] if text not in below)]
    for section in _BY_KEY:
        for key, value in _map(data, section).items():
            # A key that was swept may be derived here, and the other way round.
            taken_out = [_map(layers.data, other).pop(key, None) for other in _BY_KEY]
            if value is None and not any(taken_out):
                raise ConfigError(
                    f"{source}: {section}.{key}: is null, which takes an included key out, and none is there."
                )
    layers.add(data, source)
    for section in _BY_KEY:
        there = _map(layers.data, section)
        for key in [key for key, value in there.items() if value is None]:
            del there[key]


def _map(data: Mapping[str, Any], section: str) -> dict[str, Any]:
    """A section, or an empty one where it is missing or no map, which its validation will tell."""
    found = data.get(section)
    return found if isinstance(found, dict) else {}
