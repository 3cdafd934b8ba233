"""YAML as it is read: numbers and words, what is refused, and files."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hjepa.schema import ConfigError, parse_yaml, read_mapping

# Numbers as people write them


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E5", 1e5), ("-3e-4", -3e-4), ("+2e3", 2000.0), ("1.5e3", 1500.0), (".5e1", 5.0),
        ("1.e2", 100.0), ("1.0e-3", 1e-3), ("12", 12), ("1.5", 1.5), ("1_000", 1000),
        ("0", 0), ("-0", 0), ("+7", 7), ("0x1f", 31), ("0b101", 5), ("0.5", 0.5), ("00.5", 0.5),
        ("-1.", -1.0), (".5", 0.5), ("-.inf", -math.inf),
    ],
)  # fmt: skip
def test_numbers_are_numbers(text: str, value: float):
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read_back(value: float):
    assert parse_yaml(f"x: {value!r}") == {"x": value}


@pytest.mark.parametrize(
    "text", ["e5", "1e", "1e-", "v1e5", "1e5x", "--1e5", "2024-01-31", "add", "1:30", "1:30.5", "008"]
)
def test_words_are_words(text: str):
    assert parse_yaml(text) == text


# YAML that is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' stands twice"),
        ("a: {b: 1, c: 2,\n b: 3}", "line 2: key 'b' stands twice"),
        ("a: 1\n---\nb: 2", "holds more than one YAML document; a config is one"),
        ("a: !!python/object/apply:os.getcwd []", "line 1, .* constructor for the tag .*python/object"),
        ("a: !!python/name:os.getcwd ''", "constructor for the tag .*python/name"),
        ("a: !!binary aGk=", "constructor for the tag .*binary"),
        ("a: [1, 2", "line 1, column 9: expected ',' or ']'"),
        ("a:\n\t- 1", "line 2, column 1: found character .* that cannot start any token"),
        ("[1]: 2", "line 1: a key must be a plain word"),
        ("a: &x {b: 1}\nc: {<<: *x}", "line 2: '<<' is not supported; use extends"),
        ("[" * 5000, "recursion"),
        ("a: 1\nb: 010", "line 2: 010 has a leading 0, which some read as octal; write 10, or quotes"),
        ("-0_7", "line 1: -0_7 has a leading 0, which some read as octal; write 7, or"),
        ('a: 1\nb: "x\\0y"', r"line 2: 'x\\x00y' has a character that is none"),
        ('{"\\ud800": 1}', r"line 1: '\\ud800' has a character that is none"),
        ("[00]", "line 1: 00 has a leading 0, which some read as octal; write 0, or"),
    ],
)  # fmt: skip
def test_yaml_with_a_trap_is_refused(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text)


def bomb(levels: int, opening: str, closing: str) -> str:
    lines = [f"k0: &k0 {opening.format(1, 2)}{closing}"]
    lines += [f"k{i}: &k{i} {opening.format(f'*k{i - 1}', f'*k{i - 1}')}{closing}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("levels", [20, 45])
@pytest.mark.parametrize(("opening", "closing"), [("{{x: {}, y: {}", "}"), ("[{}, {}", "]")])
def test_aliases_that_multiply_are_refused(levels: int, opening: str, closing: str):
    with pytest.raises(ConfigError, match="more than 100,000 values, aliases written out"):
        parse_yaml(bomb(levels, opening, closing))


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}"])
def test_an_alias_of_itself_is_refused(text: str):
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml(text)


def test_an_alias_used_plainly_is_fine():
    assert parse_yaml("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}


# Files


def test_a_file_that_is_too_large_is_refused(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text("title: x\n" + "# padding\n" * 100_000)
    with pytest.raises(ConfigError, match=r"a.yaml: larger than 1,000,000 bytes"):
        read_mapping(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2", "a.yaml: must hold a map of keys to values, holds a list"),
        (b"just words", "a.yaml: must hold a map of keys to values, holds a str"),
        (b"\xff\xfe\x00", "a.yaml: not UTF-8 text"),
        (b"a: 1\na: 2", "a.yaml: not valid YAML: line 2: key 'a' stands twice"),
    ],
)
def test_a_file_that_is_no_config_is_refused_by_name(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_mapping(tmp_path / "a.yaml")


def test_a_missing_file_is_answered_with_the_nearest(tmp_path: Path):
    (tmp_path / "drawing.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"drawin.yaml: no such file. Nearest: .*drawing.yaml"):
        read_mapping(tmp_path / "drawin.yaml")
    with pytest.raises(ConfigError, match="a folder, not a file"):
        read_mapping(tmp_path)


def test_an_empty_file_sets_nothing(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("# only a comment\n")
    assert read_mapping(tmp_path / "a.yaml") == {}


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
words = st.text("abc1e-.:# '\"", max_size=6)


@given(
    st.recursive(
        plain | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner),
    )
)
def test_what_pyyaml_writes_is_read_back(value: Any):
    assert parse_yaml(yaml.safe_dump(value)) == value
