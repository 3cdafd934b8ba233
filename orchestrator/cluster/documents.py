"""YAML for programs other than ours to read."""

import re
from typing import Any

import yaml

# YAML 1.1 and 1.2, and their readers in Go and Python, differ over what is a number or a truth value.
# Text that none of them takes for another thing stands bare, all other text in quotes.
_BARE = re.compile(r"[A-Za-z/][A-Za-z0-9/_.-]+")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None if _BARE.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def write_yaml(*documents: Any) -> str:
    """The documents as one stream, each after a line `---`; a script of several lines stands as it is."""
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, explicit_start=True, allow_unicode=True, width=100_000
    )
