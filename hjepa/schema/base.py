"""The config classes' base, and what can be asked of any tree of them: its keys, and which are inert."""

import difflib
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from hjepa.schema.error import ConfigError


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

        A key that names a subsection stands for everything below it. Of a list some elements may be named,
        or keys of them: `betas[1]`, `datasets[0].path`.
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


def union_members(annotation: Any) -> tuple[Any, ...]:
    """What a value may be: the members of a union, or the annotation alone."""
    if get_origin(annotation) is Annotated:
        return union_members(get_args(annotation)[0])
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


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


def nearest_key(root: type[Config], key: str, beside: Iterable[str] = ()) -> str:
    """One line for an unknown key: the nearest one that exists, and what stands beside it.

    `beside` are keys at the top that are no fields of `root`.
    """
    keys = [*_all_keys(root), *beside]
    tails: dict[str, list[str]] = {}
    for candidate in keys:
        tails.setdefault(candidate.rsplit(".", 1)[-1], []).append(candidate)
    name = key.rsplit(".", 1)[-1]
    # The right name in the wrong section is the commonest slip; names that many sections have tell nothing.
    same = tails.get(name, [])
    near = difflib.get_close_matches(key, same, n=1, cutoff=0.0) if len(same) <= 2 else []
    near = near or difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    if not near:
        near = [tails[tail][0] for tail in difflib.get_close_matches(name, tails, n=1, cutoff=0.6)]
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
