"""The page of a sweep's keys: `python -m orchestrator.docs` writes it anew, a test holds it true."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic_core import PydanticUndefined

from orchestrator.cluster.machines import Provider
from orchestrator.cluster.profile import KINDS
from orchestrator.space import Config, SweepConfig, flow_yaml, key_tables, leaves

PAGE = Path(__file__).parent.parent / "docs/sweep-keys.md"


def text() -> str:
    """The page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Keys of a search space and of a cluster's profile"
    yield ""
    yield (
        "Every key, written by `make docs` from the schema. [search-spaces.md](search-spaces.md) and\n"
        "[cluster.md](cluster.md) say what they are for. With another value of a key of *speed or place\n"
        "only* a sweep goes on; with another value of any other key it is another sweep."
    )
    yield from _tables(SweepConfig, "")
    for kind, profile in KINDS.items():
        yield from _tables(profile, f"profile of type {kind}", without="provider.")
    for provider in get_args(get_args(Provider)[0]):
        (kind,) = get_args(provider.model_fields["type"].annotation)
        yield from _tables(provider, f"provider of type {kind}")


def _tables(schema: type[Config], name: str, without: str = " ") -> Iterator[str]:
    """Tables of a class's keys, but for those that begin with `without`."""
    keys = [(key, field) for key, field in leaves(schema) if not key.startswith(without)]
    values = {key: field.get_default(call_default_factory=True) for key, field in keys}

    def default(key: str) -> str:
        value = values[key]
        if value is PydanticUndefined:
            return "needed"
        return f"`{flow_yaml(list(value) if isinstance(value, tuple) else value)}`"

    return key_tables(keys, default, lambda section: ", ".join(filter(None, (name, section))) or "top level")


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    print(f"written: docs/{PAGE.name}")
