"""An old-style YAML file as dotted keys, each with its value and line."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hjepa.schema import MAX_FILE_BYTES, ConfigError, one_line, parse_yaml


@dataclass(frozen=True)
class Entry:
    """One key of an old file."""

    key: str
    value: Any
    line: int


@dataclass(frozen=True)
class OldFile:
    """What an old file says."""

    path: Path
    text: str
    entries: dict[str, Entry]
    """By dotted key, in the order of the file; a list, of maps too, is one value."""
    data: dict[str, Any]
    """The same as nested maps."""
    documents: int

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key."""
        entry = self.entries.get(key)
        return default if entry is None else entry.value

    def error(self, key: str, message: str) -> ConfigError:
        """A ConfigError that names file, line and key."""
        return ConfigError(f"{self.path}: line {self.entries[key].line}: {key}: {message}")


def read_old(path: Path) -> OldFile:
    """The first YAML document of a file. Raises ConfigError where it cannot be read or is no map."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes; a config is not.")
        text = path.read_bytes().decode("utf-8")  # line ends as they are, for a copy
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text.") from None
    documents = _documents(path, text)
    if not documents or not isinstance(documents[0], yaml.MappingNode):
        raise ConfigError(f"{path}: must hold a map of keys to values.")
    first = documents[0]
    begin, end = first.start_mark, first.end_mark
    try:
        # Blank lines in place of what stands before, so that the lines in messages are the file's.
        data = parse_yaml("\n" * begin.line + text[begin.index - begin.column : end.index])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    entries = {entry.key: entry for entry in _entries(first, data, "")}
    return OldFile(path, text, entries, data, len(documents))


def _documents(path: Path, text: str) -> list[yaml.Node]:
    try:
        return list(yaml.compose_all(text, yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {one_line(error)}.") from None


def _entries(node: yaml.MappingNode, data: dict[Any, Any], prefix: str) -> Iterator[Entry]:
    for (key_node, value_node), (name, value) in zip(node.value, data.items(), strict=True):
        key = f"{prefix}{name}"
        if isinstance(value_node, yaml.MappingNode) and value:
            yield from _entries(value_node, value, f"{key}.")
        else:
            yield Entry(key, value, key_node.start_mark.line + 1)
