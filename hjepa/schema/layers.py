"""Layers: a file on the files that it extends, and overrides on the file."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from hjepa.schema.base import (
    Config,
    ConfigError,
    ConfigT,
    nearest_key,
    resolve_key,
    section_types,
    union_members,
)
from hjepa.schema.yamlfile import parse_yaml, read_mapping

_IN_YAML = {
    "model_type": "input should be a map, {key: value}",
    "dict_type": "input should be a map, {key: value}",
    "tuple_type": "input should be a list, [value, ...]",
    "list_type": "input should be a list, [value, ...]",
}
"""What pydantic calls objects and arrays."""


class Layers:
    """Values from several sources laid over one another, remembering where each key came from."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.file_keys: tuple[str, ...] = ()
        """What files may hold beside the config's keys, and the data here does not."""

    def add(self, data: Mapping[str, Any], source: str) -> None:
        """Lay `data` over what is there: maps merge, everything else replaces."""
        self._merge(self.data, data, source, "")

    def _merge(self, into: dict[str, Any], data: Mapping[str, Any], source: str, prefix: str) -> None:
        for name, value in data.items():
            key = f"{prefix}{name}"
            self.sources.pop(key, None)  # so that the keys stand in the order in which they were set
            self.sources[key] = source
            if isinstance(value, Mapping):
                below = into.get(name)
                into[name] = dict(below) if isinstance(below, dict) else {}
                self._merge(into[name], value, source, key + ".")
            else:
                into[name] = value

    def add_file(self, path: Path) -> None:
        """Lay a YAML file, on top of the files that it `extends`."""
        self.file_keys = ("extends",)
        for file, data in reversed(list(_with_parents(path))):
            self.add(data, str(file))

    def set(self, key: str, value: Any, source: str) -> None:
        """Override one dotted key."""
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        self.add(nested, source)

    def source_of(self, key: str) -> str:
        """The source that set `key` or the section nearest above it."""
        while key not in self.sources and "." in key:
            key = key.rpartition(".")[0]
        return self.sources.get(key, "")

    def build(self, root: type[ConfigT], name: str) -> ConfigT:
        """The validated config. `name` stands in messages about what no source set."""
        self._reject_unknown(root, name)
        try:
            # Through JSON, because its strict mode takes lists for tuples and 1 for 1.0 but no
            # string for a number and no true for 1.
            return root.model_validate_json(json.dumps(self.data), strict=True)
        except ValidationError as error:
            raise ConfigError("\n".join(self._explain(error, root, name))) from None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: {error}.") from None

    def _reject_unknown(self, root: type[Config], name: str) -> None:
        for key, word in _dotted(self.data):
            known, source = _resolves(root, key), self.source_of(key) or name
            if known and "." in word and not _inside_free_map(root, key):
                section, _, below = word.rpartition(".")
                raise ConfigError(
                    f"{source}: {key}: a file has its keys in sections; write {below} below {section}."
                )
            if not known:
                nearest = nearest_key(root, key, () if source.startswith("--set ") else self.file_keys)
                raise ConfigError(f"{source}: {key}: no such config key.\n{nearest}")

    def _explain(self, error: ValidationError, root: type[Config], name: str) -> Iterator[str]:
        told: dict[str, list[str]] = {}
        for problem in error.errors(include_url=False):
            head, message = self._problem(problem, root, name)
            told.setdefault(head, []).append(message)
        for head, messages in told.items():
            # Of a union, each member says what it wants.
            first, *others = dict.fromkeys(messages)
            yield f"{head}: {' or '.join([first, *(m.removeprefix('input should be ') for m in others)])}."

    def _problem(self, problem: Any, root: type[Config], name: str) -> tuple[str, str]:
        """Where a value is wrong, and what is wrong with it."""
        key, context = "", problem.get("ctx", {})
        path, element = _split_at_element(problem["loc"])
        for part in path:
            # A union's member stands in the path too, by its class or tag, which is no key.
            below = f"{key}.{part}" if key else str(part)
            key = below if below in self.sources else key
        source = (self.source_of(key) if key else "") or name
        message = str(context.get("error", problem["msg"]))
        message = _IN_YAML.get(problem["type"], message[:1].lower() + message[1:])
        if len(element) > 1 or (element and isinstance(problem["input"], dict)):
            key += f"[{element[0]}]"
        if len(element) > 1:
            head = f"{source}: {key}.{element[1]}"
            if problem["type"] == "missing":
                return head, "must be given"
            if problem["type"] == "extra_forbidden":
                return head, f"no such key{_known_beside(root, key, str(element[1]))}"
            return f"{head}: {_show(problem['input'])} is not allowed", message
        if problem["type"] == "missing":
            return f"{source}: {key}{'.' if key else ''}{problem['loc'][-1]}", "must be given"
        if problem["type"].startswith("union_tag"):
            tag_key = f"{key}.{context['discriminator'].strip(chr(39))}"
            if "tag" not in context:
                return f"{source}: {tag_key}", "must be given"
            return (
                f"{source}: {tag_key}: {context['tag']!r} is not allowed",
                f"one of {context['expected_tags']} is",
            )
        if not key or isinstance(problem["input"], dict):
            source = self._source_of_keys_in(message, key) or source
            return (f"{source}: {key}" if key else source), message
        return f"{source}: {key}: {_show(problem['input'])} is not allowed", message

    def _source_of_keys_in(self, message: str, section: str) -> str:
        """The source of the key set last of those that a message about `section` names, or nothing."""
        words = re.findall(r"[a-z]\w*(?:\.\w+)*", message)
        keys = {f"{section}.{word}" if section else word for word in words}
        return next((self.sources[key] for key in reversed(self.sources) if key in keys), "")


def _split_at_element(loc: tuple[int | str, ...]) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
    """Where a value is, up to the list that it is in, which is one value to its sources, and within that."""
    at = next((depth for depth, part in enumerate(loc) if isinstance(part, int)), len(loc))
    return loc[:at], loc[at:]


def _known_beside(root: type[Config], key: str, word: str) -> str:
    """What may stand in an element of a list, in which `word` may not: the nearest key, and all."""
    try:
        annotation = resolve_key(root, key.partition("[")[0]).annotation
    except ConfigError:  # below a map whose keys are data
        return ""
    parts = [part for one in get_args(annotation) for part in section_types(one)]
    known = [name for part in parts for name in part.model_fields]
    # As data_path, the key beside the list, for path.
    near = [name for name in known if name in word.split("_")] or difflib.get_close_matches(word, known, n=1)
    return f"{f'; nearest: {near[0]}' if near else ''}; one of {', '.join(known)}" if known else ""


def _resolves(root: type[Config], key: str) -> bool:
    try:
        resolve_key(root, key)
    except ConfigError:
        return _inside_free_map(root, key)
    return True


def _inside_free_map(root: type[Config], key: str) -> bool:
    """Whether `key` lies below a field that is a plain map, whose keys are data."""
    while "." in key:
        key = key.rpartition(".")[0]
        try:
            field = resolve_key(root, key)
        except ConfigError:
            continue
        return any(
            (get_origin(member) or member) in (dict, Mapping) for member in union_members(field.annotation)
        )
    return False


def _dotted(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key, and the word by which it stands in its section."""
    for name, value in data.items():
        yield f"{prefix}{name}", str(name)
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")


def _show(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _with_parents(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A file's data and that of its chain of `extends`, nearest first."""
    seen: list[Path] = []
    child: Path | None = None
    current: Path | None = path
    while current is not None:
        if current.resolve() in seen:
            chain = " -> ".join(p.name for p in [*seen, current])
            raise ConfigError(f"{path}: extends: files extend one another in a circle: {chain}.")
        seen.append(current.resolve())
        try:
            data = read_mapping(current)
        except ConfigError as error:
            raise ConfigError(f"{child}: extends: {error}" if child else str(error)) from None
        parent = data.pop("extends", None)
        if parent is not None and not isinstance(parent, str):
            raise ConfigError(f"{current}: extends: {_show(parent)} is not allowed: must be one path.")
        yield current, data
        child, current = current, None if parent is None else current.parent / parent


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1", ...]`, as given to `--set`, to dotted keys and values."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text}: must read key=value, e.g. training.lr=1e-3.")
        try:
            found[key.strip()] = parse_yaml(value)
        except ConfigError as error:
            raise ConfigError(f"--set {text}: {error}") from None
    return found
