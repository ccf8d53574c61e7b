"""The value of a ``$(...)``: arithmetic read from the syntax tree, nothing is ever executed."""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable

from ini_compat.errors import IniError, Place, did_you_mean, quoted
from ini_compat.syntax import limits

Number = int | float

_NOT_ARITHMETIC = re.compile(r"[^0-9A-Za-z_.+\-*/%()<>=!, \t]")
_LARGEST_ROUND = 300  # round(1, -10**9) would compute 10**10**9
_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Number, Number], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "int": int,
    "float": float,
    "round": round,
    "abs": abs,
    "min": min,
    "max": max,
}


def evaluate(text: str, place: Place | None = None) -> Number:
    """Return the number that Python 3 would print for ``text``; a bool becomes 1 or 0.

    Accepted: numbers, ``+ - * / // % **``, comparisons, ``and or not``, ``x if c else y``, the
    functions int, float, round, abs, min and max.
    """
    try:
        return _value(_parsed(text.strip(" \t")), 0)
    except IniError as error:
        raise _problem(text, error.message, place) from None
    except OverflowError:
        raise _problem(text, "a number is too large", place) from None
    except (ArithmeticError, TypeError, ValueError) as error:
        raise _problem(text, str(error), place) from None


def _problem(text: str, reason: str, place: Place | None) -> IniError:
    end = "" if reason.endswith("?") else "."
    return IniError(f"{quoted(f'$({text})')} cannot be evaluated: {reason}{end}", place)


def _parsed(text: str) -> ast.expr:
    if len(text) > limits.EXPRESSION:
        raise IniError(f"it is longer than {limits.EXPRESSION} characters")
    other = _NOT_ARITHMETIC.search(text)
    if other:
        raise IniError(f"{quoted(other.group())} is not accepted in arithmetic")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as "1if x": legal, though Python dislikes it
            return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise IniError("it is not arithmetic") from None


def _value(node: ast.expr, depth: int) -> Number:
    """Return the checked number of a node; Python's own rules decide what is evaluated at all."""
    if depth > limits.EXPRESSION_DEPTH:
        raise IniError("it is nested too deeply")
    depth += 1
    if isinstance(node, ast.Constant):
        return _checked(node.value)
    if isinstance(node, ast.BinOp):
        return _binary(node, depth)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _checked(_UNARY[type(node.op)](_value(node.operand, depth)))
    if isinstance(node, ast.BoolOp):
        return _and_or(node, depth)
    if isinstance(node, ast.Compare):
        return _comparison(node, depth)
    if isinstance(node, ast.IfExp):
        return _value(node.body if _value(node.test, depth) else node.orelse, depth)
    if isinstance(node, ast.Call):
        return _call(node, depth)
    if isinstance(node, ast.Name):
        what = "a function" if node.id in _FUNCTIONS else "no number"
        raise IniError(f"{quoted(node.id)} is {what}")
    raise IniError(f"{type(node).__name__} is not accepted in arithmetic")


def _checked(value: object) -> Number:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        if value.bit_length() > limits.NUMBER_BITS:
            raise IniError("a number is too large")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise IniError("a number is too large")
        return value
    raise IniError(f"a {type(value).__name__} is not a real number")


def _binary(node: ast.BinOp, depth: int) -> Number:
    left, right = _value(node.left, depth), _value(node.right, depth)
    if isinstance(node.op, ast.Pow):
        return _power(left, right)
    if type(node.op) not in _BINARY:
        raise IniError(f"{type(node.op).__name__} is not accepted in arithmetic")
    return _checked(_BINARY[type(node.op)](left, right))


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int):
        # Known before it is computed: 9**9**9 would never end.
        fewest_bits = (base.bit_length() - 1) * exponent
        if exponent > 0 and fewest_bits > limits.NUMBER_BITS:
            raise IniError("a number is too large")
    return _checked(base**exponent)


def _and_or(node: ast.BoolOp, depth: int) -> Number:
    """Return the operand that decides, as Python does: ``0 or 5`` is 5."""
    result: Number = 0
    for operand in node.values:
        result = _value(operand, depth)
        if bool(result) is isinstance(node.op, ast.Or):
            break
    return result


def _comparison(node: ast.Compare, depth: int) -> Number:
    left = _value(node.left, depth)
    for comparison, operand in zip(node.ops, node.comparators, strict=True):
        if type(comparison) not in _COMPARISONS:
            raise IniError(f"{type(comparison).__name__} is not accepted in arithmetic")
        right = _value(operand, depth)
        if not _COMPARISONS[type(comparison)](left, right):
            return 0
        left = right
    return 1


def _call(node: ast.Call, depth: int) -> Number:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in _FUNCTIONS:
        accepted = ", ".join(_FUNCTIONS)
        raise IniError(f"the functions are {accepted}.{did_you_mean(name, _FUNCTIONS)}")
    if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
        raise IniError(f"{name}() takes plain numbers only")
    arguments = [_value(argument, depth) for argument in node.args]
    if name == "round" and len(arguments) > 1 and abs(arguments[1]) > _LARGEST_ROUND:
        raise IniError("round() cannot have that many digits")
    return _checked(_FUNCTIONS[name](*arguments))
