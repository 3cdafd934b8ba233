"""A config, or its schema, written out for people."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from hjepa.schema.base import Config, has_effect, union_members


def allowed(field: FieldInfo) -> str:
    """The legal values of a field, in words: `> 0`, `one of add, concat`."""
    members = union_members(field.annotation)
    choices = [str(choice) for member in members for choice in _literals(member)]
    limits = [limit for rules in (field.metadata, *map(_rules, members)) for limit in _limits(rules)]
    parts = []
    if choices:
        parts.append("one of " + ", ".join(choices))
    if limits:
        parts.append(" and ".join(limits))
    if parts and NoneType in members:
        parts.append("null")
    return " or ".join(parts)


def _literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _rules(member: Any) -> Iterable[Any]:
    """What an annotated member of a union has to keep to."""
    noted = get_args(member)[1:] if get_origin(member) is Annotated else ()
    return [rule for note in noted for rule in getattr(note, "metadata", ())]


def _limits(rules: Iterable[Any]) -> Iterator[str]:
    for rule in rules:
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            bound = getattr(rule, attribute, None)
            if bound is not None:
                yield f"{sign} {bound:g}"


def key_tables(
    keys: Iterable[tuple[str, FieldInfo]],
    default: Callable[[str], str],
    title: Callable[[str], str] = lambda section: section or "top level",
    more: Mapping[str, Callable[[str], str]] = {},
) -> Iterator[str]:
    """Lines of Markdown, a table for each section of dotted keys: meaning, what is allowed, default, and
    columns of `more`, each by what it says of a key."""
    sections: dict[str, list[tuple[str, FieldInfo]]] = {}
    for key, field in keys:
        sections.setdefault(key.rpartition(".")[0], []).append((key, field))
    for section, below in sections.items():
        yield from ["", f"## {title(section)}", ""]
        yield _row(["key", "meaning", "allowed", "default", *more])
        yield _row(["---"] * (4 + len(more)))
        for key, field in below:
            meaning = _doc(field.description) + ("" if has_effect(field) else " *Speed or place only.*")
            beside = (says(key) for says in more.values())
            yield _row([f"`{key.rpartition('.')[2]}`", meaning, allowed(field), default(key), *beside])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def to_yaml(config: Config) -> str:
    """A config as YAML, every key written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None)


def flow_yaml(value: object) -> str:
    """A plain value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


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
        yield f"{pad}{name}: {flow_yaml(values[name])}"


def _doc(text: str | None) -> str:
    return " ".join((text or "").split())


def _comment(text: str, pad: str) -> list[str]:
    return [f"{pad}# {line}" for line in textwrap.wrap(text, 96 - len(pad))]
