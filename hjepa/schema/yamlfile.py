"""YAML read safely: one document, `1e-5` a number, `010` and `1:30` none, no key twice, no bombs."""

import difflib
import re
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from yaml.composer import ComposerError

from hjepa.schema.base import ConfigError

MAX_FILE_BYTES = 1_000_000
MAX_VALUES = 100_000


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
# YAML 1.1 has 1:30 for 90 too, and wants a dot and a signed exponent in a float; people write 1e-5.
_NUMBERS = {
    _INT: r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-7][0-7_]*|[1-9][0-9_]*)",
    _FLOAT: r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+|[-+]?[0-9][0-9_]*\.[0-9_]*|"
    r"\.[0-9][0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    """Safe YAML in which numbers are those that people write and a key may stand once."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in its parent)
        first: [(tag, pattern) for tag, pattern in known if tag not in _NUMBERS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        text = super().construct_scalar(node)
        if re.search("[\0\ud800-\udfff]", text):
            # By an escape in double quotes only. No file can have such a name.
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {text!r} has a character that is none")
        return text

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = node.value.lstrip("-+").replace("_", "")
        if len(text) > 1 and text[0] == "0" and text[1] not in "bx":
            # By YAML 1.1 010 is 8, by 1.2 it is 10.
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1}: {node.value} has a leading 0, which some read as octal; "
                f"write {text.lstrip('0') or '0'}, or quotes around a name"
            )
        return super().construct_yaml_int(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[Any]()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(
                    f"line {key_node.start_mark.line + 1}: '<<' is not supported; use extends"
                )
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | NoneType):
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: a key must be a plain word")
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: key {key!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+0123456789."))
_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
# A date is what was typed: no key holds one, and `experiment_name: 2024-01-31` is a name.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_str)
for _tag in ("binary", "omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_undefined)


def parse_yaml(text: str) -> Any:
    """One YAML document, read safely. Raises ConfigError with the line of a mistake."""
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
        _require_few_values(data)
        return data
    except ComposerError as error:
        if "single document" in str(error):
            raise ConfigError("holds more than one YAML document; a config is one.") from None
        raise ConfigError(f"not valid YAML: {one_line(error)}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not valid YAML: {one_line(error)}.") from None


def _require_few_values(data: Any) -> None:
    """Refuses aliases that multiply: a few lines of them, written out, would fill the memory."""
    stack, count = [data], 0
    while stack:
        value = stack.pop()
        count += 1
        if count > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES:,} values, aliases written out")
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def one_line(error: Exception) -> str:
    """What YAML has against a text, with line and column where it says them."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if mark is not None and problem:
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    return " ".join(str(error).split())


def read_mapping(path: Path) -> dict[str, Any]:
    """The map that a YAML file holds. Raises ConfigError naming the file."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes; a config is not.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file.{_nearest_file(path)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder, not a file.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text.") from None
    try:
        data = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold a map of keys to values, holds a {type(data).__name__}.")
    return data


def _nearest_file(path: Path) -> str:
    """A YAML file of nearly that name in a folder of nearly that one; a bare name's may be a folder below."""
    folder = path.parent
    if not folder.is_dir():
        near = _near(folder.name, [p for p in _inside(folder.parent) if p.is_dir()])
        if near is None:
            return ""
        folder = near
    here = [folder] if path.parent != Path() else [folder, *(p for p in _inside(folder) if p.is_dir())]
    files = [p for one in here for p in _inside(one) if p.suffix in (".yaml", ".yml")]
    found = _near(path.name, files)
    return f" Nearest: {found}." if found else ""


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _near(name: str, paths: list[Path]) -> Path | None:
    by_name = {path.stem: path for path in reversed(paths)}
    near = difflib.get_close_matches(Path(name).stem, by_name, n=1)
    return by_name[near[0]] if near else None
