"""The language of constraints and derived values: what it computes, and what it will not take."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.space.expression import Expression, ExpressionError, reader

DATA = {
    "a": 6,
    "b": {"c": 2.5, "text": "mse", "list": [1.0, 0.5], "nothing": None, "flag": True},
}


def value(text: str) -> Any:
    return Expression(text).value(reader(DATA, {"a": 3}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a * b.c + 1", 16.0),
        ("a // 4 + a % 4", 3),
        ("-a ** 2", -36),
        ("a / base.a", 2.0),
        ("b.list[0] - b.list[-1]", 0.5),
        ("sum(b.list) + len(b.list)", 3.5),
        ("max(a, 7) + round(b.c * 3)", 15),
        ("round(b.c, 0)", 2.0),
        ("0 < a <= 6 and not b.text == 'cosine'", True),
        ("b.text in ['mse', 'huber'] or a / 0 > 1", True),
        ("1 if b.flag else 'x'", 1),
        ("[a, a * 0.5]", [6, 3.0]),
        ("b.nothing == null", True),
        ("log2(8) + sqrt(4)", 5.0),
    ],
)
def test_an_expression_has_the_value_that_it_has_in_python(text: str, expected: Any) -> None:
    assert value(text) == expected
    assert type(value(text)) is type(expected)


def test_the_keys_that_are_read_are_known_without_reading_them() -> None:
    expression = Expression("max(model.depth, 2) * training.lr if loss.type == 'mse' else base.training.lr")
    assert expression.keys == ("loss.type", "model.depth", "training.lr")
    assert expression.base_keys == ("training.lr",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a +", "cannot be read; it may hold numbers,"),
        ("a = 1", "cannot be read; it may hold numbers,"),
        ("", "cannot be read"),
        ("a; a", "cannot be read"),
        ("a" * 501, "is longer than 500 characters"),
        ("-" * 499 + "a", "is nested deeper than 50"),
        ("(" * 400 + "a" + ")" * 90, "cannot be read"),
        ("open('x')", "open is no function here; there are abs, ceil,"),
        ("a.real()", "holds a.real()"),
        ("b.list[0:1]", "holds b.list[0:1]"),
        ("lambda: 1", "holds lambda: 1"),
        ("[x for x in b.list]", "holds [x for x in b.list]"),
        ("(a := 3)", "holds (a := 3)"),
        ("f'{a}'", "holds f'"),
        ("max(b.list, key=len)", "holds max(b.list, key=len)"),
        ("max(*b.list)", "holds *b.list"),
        ("a is null", "holds a is null"),
        ("a & 3", "holds a & 3"),
        ("'a'.upper", "holds 'a'.upper"),
        ("b'x'", "holds b'x'"),
    ],
)
def test_what_the_language_lacks_is_refused_before_anything_is_computed(text: str, expected: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression(text)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a / (a - 6)", "divides by zero"),
        ("9 ** 9 ** 9", "has an exponent beyond 100"),
        ("10 ** 99", "goes beyond 2^53"),
        ("round(a, -10 ** 9)", "rounds to more than 100 digits"),
        ("2.0 ** 99 * 1e300", "gives no finite number"),
        ("(-2) ** 0.5", "gives no finite number"),
        ("exp(10 ** 4)", "cannot be computed: math range error"),
        ("sqrt(-1)", "cannot be computed"),
        ("'x' * 1000", "'x' is 'x', where a number is needed"),
        ("b.flag + 1", "b.flag is True, where a number is needed"),
        ("b.nothing * 2", "b.nothing is null, where a number is needed"),
        ("a and b.flag", "a is 6, where true or false is needed"),
        ("b.text < a", "cannot be computed"),
        ("b.list[7]", "cannot be computed"),
        ("b.text[0]", "'mse'[0] is no item of a list"),
    ],
)
def test_what_has_no_value_says_why(text: str, expected: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        value(text)
    assert str(caught.value).startswith(expected)


def test_a_constraint_must_be_true_or_false() -> None:
    with pytest.raises(ExpressionError, match="gives 6, not true or false"):
        Expression("a").holds(reader(DATA, {}))


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_an_error_of_ours(text: str) -> None:
    try:
        expression = Expression(text)
    except ExpressionError:
        return
    with contextlib.suppress(ExpressionError):
        expression.value(lambda key: 3)
