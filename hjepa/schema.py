"""Config classes, and YAML files read into them.

Any tree of `Config` classes can be loaded, overridden by dotted key, and described from here;
`hjepa.config` applies it to a run and `orchestrator.space` to a sweep.
"""

import difflib
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from yaml.composer import ComposerError

MAX_FILE_BYTES = 1_000_000
MAX_VALUES = 100_000


class ConfigError(ValueError):
    """A mistake in what the user wrote; its text is shown as it stands, exit code 2."""


class Config(BaseModel):
    """Base of every config class: frozen, and nothing unknown is accepted."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def inert(self) -> dict[str, str]:
        """Keys of this section that cannot matter at its present values, each with the reason.

        A key that names a subsection stands for everything below it.
        """
        return {}


ConfigT = TypeVar("ConfigT", bound=Config)

# `Field(..., json_schema_extra=NO_EFFECT)` marks a key that changes speed or place only, never a
# result: the every-key-matters test leaves it out, and a sweep refuses to vary it.
NO_EFFECT: dict[str, Any] = {"no_effect": True}


def has_effect(field: FieldInfo) -> bool:
    """Whether a key may change a run's results; see NO_EFFECT."""
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("no_effect"))


def inert_keys(config: Config, prefix: str = "") -> dict[str, str]:
    """Every dotted key, section or leaf, that cannot matter as `config` stands, with the reason."""
    found = {prefix + key: reason for key, reason in config.inert().items()}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            found |= inert_keys(value, f"{prefix}{name}.")
    return found


def inert_reason(config: Config, key: str) -> str | None:
    """Why the dotted `key` cannot matter in `config`, or None where it can."""
    inert = inert_keys(config)
    parts = key.split(".")
    sections = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return next((inert[section] for section in sections if section in inert), None)


# Keys


def section_types(annotation: Any) -> list[type[Config]]:
    """The config classes that an annotation admits, through unions and `Annotated`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return section_types(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [found for member in get_args(annotation) for found in section_types(member)]
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return []


def leaves(root: type[Config], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key of `root` that holds a value rather than a section, in file order."""
    for name, field in root.model_fields.items():
        sections = section_types(field.annotation)
        if not sections:
            yield prefix + name, field
        seen = set[str]()
        for section in sections:
            for key, leaf in leaves(section, f"{prefix}{name}."):
                if key not in seen:
                    seen.add(key)
                    yield key, leaf


def dotted(config: Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of `config` that holds a value, and the value, in file order."""
    found: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        below = dotted(value, f"{prefix}{name}.") if isinstance(value, Config) else {prefix + name: value}
        found |= below
    return found


def _all_keys(root: type[Config]) -> list[str]:
    keys = dict.fromkeys(key for key, _ in leaves(root))
    for key in list(keys):
        parts = key.split(".")
        keys |= dict.fromkeys(".".join(parts[:i]) for i in range(1, len(parts)))
    return list(keys)


def resolve_key(root: type[Config], key: str) -> FieldInfo:
    """The field that a dotted key names, through unions.

    Raises ConfigError with the nearest key and the siblings where there is none.
    """
    sections: list[type[Config]] = [root]
    field: FieldInfo | None = None
    for part in key.split("."):
        field = next((s.model_fields[part] for s in sections if part in s.model_fields), None)
        if field is None:
            raise ConfigError(f"no such config key.\n{nearest_key(root, key)}")
        sections = [
            found
            for section in sections
            if part in section.model_fields
            for found in section_types(section.model_fields[part].annotation)
        ]
    assert field is not None
    return field


def nearest_key(root: type[Config], key: str) -> str:
    """One line for an unknown key: the nearest one that exists, and what stands beside it."""
    keys = _all_keys(root)
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    if not near:  # the right name in the wrong section is the commonest slip
        tails: dict[str, str] = {}
        for candidate in keys:
            tails.setdefault(candidate.rsplit(".", 1)[-1], candidate)
        tail = difflib.get_close_matches(key.rsplit(".", 1)[-1], tails, n=1, cutoff=0.6)
        near = [tails[tail[0]]] if tail else []
    parent = near[0].rpartition(".")[0] if near else ""
    if not near:
        parts = key.split(".")[:-1]
        while parts and ".".join(parts) not in keys:
            parts.pop()
        parent = ".".join(parts)
    depth = parent.count(".") + 1 if parent else 0
    inside = [k for k in keys if k.count(".") == depth and k.startswith(f"{parent}." if parent else "")]
    siblings = ", ".join(sorted(k.rsplit(".", 1)[-1] for k in inside))
    nearest = f"Nearest: {near[0]}. " if near else ""
    return f"{nearest}Keys {'under ' + parent if parent else 'at the top'}: {siblings}."


# YAML


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-5` is a number and a key may stand once."""

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


# YAML 1.1 wants a dot and a signed exponent in a float; people write 1e-5.
_NUMBER = re.compile(r"""^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)$""")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789."))
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
    if not path.parent.is_dir():
        return ""
    names = [p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml")]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" Nearest: {path.parent / near[0]}." if near else ""


# Layers: a file on its parents, overrides on the file


class Layers:
    """Values from several sources laid over one another, remembering where each key came from."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

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
            raise ConfigError("\n".join(self._explain(error, name))) from None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: {error}.") from None

    def _reject_unknown(self, root: type[Config], name: str) -> None:
        for key in _dotted(self.data):
            known = _resolves(root, key)
            if not known:
                raise ConfigError(
                    f"{self.source_of(key) or name}: {key}: no such config key.\n{nearest_key(root, key)}"
                )

    def _explain(self, error: ValidationError, name: str) -> Iterator[str]:
        told: dict[str, list[str]] = {}
        for problem in error.errors(include_url=False):
            head, message = self._problem(problem, name)
            told.setdefault(head, []).append(message)
        for head, messages in told.items():
            # Of a union, each member says what it wants.
            first, *others = dict.fromkeys(messages)
            yield f"{head}: {' or '.join([first, *(m.removeprefix('input should be ') for m in others)])}."

    def _problem(self, problem: Any, name: str) -> tuple[str, str]:
        """Where a value is wrong, and what is wrong with it."""
        key, context = "", problem.get("ctx", {})
        path, element = _split_at_element(problem["loc"])
        for part in path:
            # A union's member stands in the path too, by its class or tag, which is no key.
            below = f"{key}.{part}" if key else str(part)
            key = below if below in self.sources else key
        source = (self.source_of(key) if key else "") or name
        message = str(context.get("error", problem["msg"]))
        message = message[:1].lower() + message[1:]
        if len(element) > 1 or (element and isinstance(problem["input"], dict)):
            key += f"[{element[0]}]"
        if len(element) > 1:
            head = f"{source}: {key}.{element[1]}"
            if problem["type"] in ("missing", "extra_forbidden"):
                return head, "must be given" if problem["type"] == "missing" else "no such key"
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
        return any((get_origin(member) or member) in (dict, Mapping) for member in _members(field.annotation))
    return False


def _dotted(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in data.items():
        yield f"{prefix}{name}"
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


# Description


def allowed(field: FieldInfo) -> str:
    """The legal values of a field, in words: `> 0`, `one of add, concat`."""
    choices = [c for member in _members(field.annotation) for c in _literals(member)]
    limits = []
    for rule in field.metadata:
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            bound = getattr(rule, attribute, None)
            if bound is not None:
                limits.append(f"{sign} {bound:g}")
    parts = []
    if choices:
        parts.append("one of " + ", ".join(str(c) for c in choices))
    if limits:
        parts.append(" and ".join(limits))
    if parts and NoneType in _members(field.annotation):
        parts.append("or null")
    return " ".join(parts)


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def to_yaml(config: Config) -> str:
    """A config as YAML, every key written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None)


def annotated_yaml(config: Config) -> str:
    """A config as YAML with each key's meaning, unit and legal range as a comment above it."""
    about = f"{_doc(type(config).__doc__)} Every key, with its meaning, its unit and what is allowed."
    head = _comment(about, "")
    return "\n".join([*head, "", *_annotated(config, "")]) + "\n"


def _annotated(config: Config, pad: str) -> Iterator[str]:
    values = config.model_dump(mode="json")
    after_section = False
    for number, (name, field) in enumerate(type(config).model_fields.items()):
        value = getattr(config, name)
        is_section = isinstance(value, Config)
        if number and (is_section or after_section):
            yield ""
        after_section = is_section
        if is_section:
            yield from _comment(_doc(field.description) or _doc(type(value).__doc__), pad)
            yield f"{pad}{name}:"
            yield from _annotated(value, pad + "  ")
            continue
        legal = allowed(field)
        yield from _comment(_doc(field.description) + (f" Allowed: {legal}." if legal else ""), pad)
        shown = yaml.safe_dump(values[name], default_flow_style=True, width=1000)
        yield f"{pad}{name}: {shown.removesuffix('...' + chr(10)).strip()}"


def _doc(text: str | None) -> str:
    return " ".join((text or "").split())


def _comment(text: str, pad: str) -> list[str]:
    return [f"{pad}# {line}" for line in textwrap.wrap(text, 96 - len(pad))]
