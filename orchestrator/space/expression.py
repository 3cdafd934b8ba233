"""A small language over dotted config keys, for constraints and derived values. Parsed, never executed."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

MAX_LENGTH = 500
"""Characters of an expression."""
MAX_DEPTH = 50
MAX_EXPONENT = 100
"""Of a power, and of the ten to which `round` rounds."""
MAX_WHOLE = 2**53
"""Whole numbers beyond it are refused, where a float would no longer hold each."""
BASE = "base."
"""`base.training.lr` is the base's own value, whatever a trial has."""


def _rounded(value: Any, *digits: int) -> Any:
    if any(abs(count) > MAX_EXPONENT for count in digits):
        raise ExpressionError(f"rounds to more than {MAX_EXPONENT} digits")
    return round(value, *digits)


_CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "exp": math.exp,
    "floor": math.floor,
    "len": len,
    "log": math.log,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": _rounded,
    "sqrt": math.sqrt,
    "sum": sum,
}
_ARITHMETIC: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, many: item in many,
    ast.NotIn: lambda item, many: item not in many,
}
_LANGUAGE = (
    "numbers, 'text', true, false, null, lists and config keys, with + - * / // % **, comparisons, in, and, "
    "or, not, a if b else c, x[0], and " + ", ".join(FUNCTIONS)
)


class ExpressionError(ValueError):
    """What is wrong with an expression, or with its value."""


class Expression:
    """An expression over dotted config keys, such as `model.embed_dim % model.num_heads == 0`."""

    def __init__(self, text: str):
        """Raises ExpressionError where `text` is none; whether its keys exist is not asked."""
        if len(text) > MAX_LENGTH:
            raise ExpressionError(f"is longer than {MAX_LENGTH} characters")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ExpressionError(f"cannot be read; it may hold {_LANGUAGE}") from None
        self.text = text.strip()
        found: dict[str, None] = {}
        _require_known(self._tree, found, MAX_DEPTH)
        self.keys = tuple(key for key in found if not key.startswith(BASE))
        """Config keys whose value in the trial it reads."""
        self.base_keys = tuple(key.removeprefix(BASE) for key in found if key.startswith(BASE))
        """Config keys whose value in the base it reads."""

    def value(self, read: Callable[[str], Any]) -> Any:
        """Its value, where `read` gives that of a dotted key. Raises ExpressionError where it has none."""
        try:
            return _value(self._tree, read)
        except ExpressionError:
            raise
        except ZeroDivisionError:
            raise ExpressionError("divides by zero") from None
        except (TypeError, ValueError, OverflowError, IndexError) as error:
            raise ExpressionError(f"cannot be computed: {error}") from None

    def holds(self, read: Callable[[str], Any]) -> bool:
        """Its value, which must be true or false."""
        value = self.value(read)
        if not isinstance(value, bool):
            raise ExpressionError(f"gives {value!r}, not true or false")
        return value


def _require_known(node: ast.AST, found: dict[str, None], depth: int) -> None:
    """Collect the keys that are read below `node`. Raises ExpressionError on what the language lacks."""
    if depth == 0:
        raise ExpressionError(f"is nested deeper than {MAX_DEPTH}")
    key = _key(node)
    if key is not None:
        if key not in _CONSTANTS:
            found[key] = None
        return
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return
        case ast.Call(func=ast.Name(id=name), args=below, keywords=[]) if name in FUNCTIONS:
            pass
        case ast.Call(func=ast.Name(id=name)) if name not in FUNCTIONS:
            raise ExpressionError(f"{name} is no function here; there are {', '.join(FUNCTIONS)}")
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
            below = [left, right]
        case ast.UnaryOp(op=op, operand=operand) if isinstance(op, ast.Not) or type(op) in _ARITHMETIC:
            below = [operand]
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(o) in _COMPARISONS for o in ops):
            below = [left, *others]
        case ast.BoolOp(values=below) | ast.List(elts=below) | ast.Tuple(elts=below):
            pass
        case ast.IfExp(test=test, body=body, orelse=other):
            below = [test, body, other]
        case ast.Subscript(value=value, slice=index) if not isinstance(index, ast.Slice):
            below = [value, index]
        case _:
            raise ExpressionError(f"holds {ast.unparse(node)}; it may hold {_LANGUAGE}")
    for child in below:
        _require_known(child, found, depth - 1)


def _key(node: ast.AST) -> str | None:
    """The dotted key that names joined by dots are."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        above = _key(node.value)
        return None if above is None else f"{above}.{node.attr}"
    return None


def _value(node: ast.AST, read: Callable[[str], Any]) -> Any:
    key = _key(node)
    if key is not None:
        return _CONSTANTS[key] if key in _CONSTANTS else read(key)
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=below) | ast.Tuple(elts=below):
            return [_value(child, read) for child in below]
        case ast.BinOp(left=left, op=op, right=right):
            return _computed(op, [_number(left, read), _number(right, read)])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _truth(operand, read)
        case ast.UnaryOp(op=op, operand=operand):
            return _computed(op, [_number(operand, read)])
        case ast.BoolOp(op=ast.And(), values=below):
            return all(_truth(child, read) for child in below)
        case ast.BoolOp(values=below):
            return any(_truth(child, read) for child in below)
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _compared(_value(left, read), ops, [_value(other, read) for other in others])
        case ast.IfExp(test=test, body=body, orelse=other):
            return _value(body if _truth(test, read) else other, read)
        case ast.Subscript(value=listed, slice=index):
            return _item(_value(listed, read), _value(index, read))
        case ast.Call(func=ast.Name(id=name), args=below):
            return _finite(FUNCTIONS[name](*(_value(child, read) for child in below)))
    raise AssertionError(ast.dump(node))


def _number(node: ast.AST, read: Callable[[str], Any]) -> int | float:
    value = _value(node, read)
    if isinstance(value, bool) or not isinstance(value, int | float):
        shown = "null" if value is None else repr(value)
        raise ExpressionError(f"{ast.unparse(node)} is {shown}, where a number is needed")
    return value


def _truth(node: ast.AST, read: Callable[[str], Any]) -> bool:
    value = _value(node, read)
    if not isinstance(value, bool):
        raise ExpressionError(f"{ast.unparse(node)} is {value!r}, where true or false is needed")
    return value


def _computed(op: ast.AST, operands: list[int | float]) -> int | float:
    if isinstance(op, ast.Pow) and abs(operands[1]) > MAX_EXPONENT:
        raise ExpressionError(f"has an exponent beyond {MAX_EXPONENT}")
    return _finite(_ARITHMETIC[type(op)](*operands))


def _finite(value: Any) -> Any:
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise ExpressionError("gives no finite number")
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        raise ExpressionError("goes beyond 2^53")
    return value


def _compared(left: Any, ops: list[ast.cmpop], others: list[Any]) -> bool:
    for op, right in zip(ops, others, strict=True):
        if not _COMPARISONS[type(op)](left, right):
            return False
        left = right
    return True


def _item(listed: Any, index: Any) -> Any:
    if not isinstance(listed, list) or isinstance(index, bool) or not isinstance(index, int):
        raise ExpressionError(f"{listed!r}[{index!r}] is no item of a list")
    return listed[index]


def reader(data: Mapping[str, Any], base: Mapping[str, Any]) -> Callable[[str], Any]:
    """What reads dotted keys from the nested `data` of a trial, and those below `base.` from its base."""

    def read(key: str) -> Any:
        value: Any = data
        if key.startswith(BASE):
            key, value = key.removeprefix(BASE), base
        for part in key.split("."):
            value = value[part]
        return value

    return read
