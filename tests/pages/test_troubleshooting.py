"""docs/troubleshooting.md quotes what the program really says, and names keys and files that there are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hjepa.config import RunConfig
from hjepa.schema import leaves

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r'(?m)^\| "([^"]+)" \|', PAGE)


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a module; of one with values in it, what stands between them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


SAID = [
    text
    for package in ("hjepa", "orchestrator")
    for file in sorted((ROOT / package).rglob("*.py"))
    for text in texts(ast.parse(file.read_text(encoding="utf-8")))
]


def test_the_page_quotes_messages():
    assert len(QUOTED) > 20
    assert len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_one_that_is_printed(message: str):
    assert any(message in text for text in SAID)


def test_keys_on_the_page_are_keys():
    keys = {key for key, _ in leaves(RunConfig)}
    sections = {key.rpartition(".")[0] for key in keys}
    tops = {key.split(".")[0] for key in sections if key}
    named = re.findall(rf"`((?:{'|'.join(tops)})\.[\w.]+)", PAGE)
    assert named
    assert [name for name in named if name not in keys | sections] == []
