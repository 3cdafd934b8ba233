"""A config, or its schema, written out for people."""

import textwrap
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from hjepa.schema.base import Config, union_members


def allowed(field: FieldInfo) -> str:
    """The legal values of a field, in words: `> 0`, `one of add, concat`."""
    choices = [c for member in union_members(field.annotation) for c in _literals(member)]
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
    if parts and NoneType in union_members(field.annotation):
        parts.append("or null")
    return " ".join(parts)


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
