"""What stands in ``$(...)``: the value that Python 3 prints, and nothing is ever executed."""

from __future__ import annotations

import time

import pytest

from ini_compat.errors import IniError, Place
from ini_compat.syntax.expression import evaluate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("60000 * 90 / 128", 42187.5),
        ("60000 * 90 // 128", 42187),
        ("7 / 1", 7.0),
        ("-7 // 2", -4),
        ("-7 % 3", 2),
        ("2 ** -1", 0.5),
        ("-2 ** 2", -4),
        ("int(32 * 0.35)", 11),
        ("10**(-1.0/(2*3-2)) if 10 > 0 else 1.0", 10**-0.25),
        ("0.0 if 8 > 0 else 1.0", 0.0),
        ("1 / 0 if 0 else 2", 2),  # what is not chosen is not evaluated
        ("round(2.5)", 2),  # half to even, as Python 3
        ("round(2.567, 1)", 2.6),
        ("abs(-3) + min(4, 5) + max(1, 2, 3)", 10),
        ("float(3)", 3.0),
        ("1 < 2 < 3", 1),
        ("1 < 2 > 3", 0),
        ("1 < 3 > 2", 1),
        ("1 == 1.0 and 2 != 2", 0),
        ("0 or 5", 5),
        ("not 3", 0),
        ("True + 1", 2),
        ("1e3", 1000.0),
        ("\t 1 + 1 ", 2),
    ],
)
def test_arithmetic(text: str, expected: float) -> None:
    value = evaluate(text)
    assert value == pytest.approx(expected, rel=1e-15)
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is not arithmetic"),
        ("1 +", "it is not arithmetic"),
        ("1)+(1", "it is not arithmetic"),
        ("1\n+1", "'\\n' is not accepted"),
        ("1 # 2", "'#' is not accepted"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulo"),
        ("0 ** -1", "0.0 cannot be raised"),
        ("(-8) ** 0.5", "a complex is not a real number"),
        ("1j", "a complex is not a real number"),
        ("1, 2", "Tuple is not accepted"),
        ("1 << 3", "LShift is not accepted"),
        ("1 is 1", "Is is not accepted"),
        ("max(1)", "not iterable"),
        ("max(*x)", "plain numbers only"),
        ("int(x=3)", "plain numbers only"),
        ("int", "'int' is a function"),
        ("ALPHA", "'$(ALPHA)' cannot be evaluated: 'ALPHA'"),
        ("mx(1, 2)", "the functions are int, float, round, abs, min, max. Did you mean 'max'?"),
        ("pow(2, 3)", "the functions are"),
        ("float(3)(2)", "the functions are"),
    ],
)
def test_what_is_no_number(text: str, reason: str) -> None:
    with pytest.raises(IniError) as error:
        evaluate(text, Place("model.ini", 7))
    assert str(error.value).startswith("model.ini:7: ")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch executed')",
        "open('executed', 'w')",
        "(lambda: 1)()",
        "().__class__.__bases__",
        "int.__class__",
        "[x for x in (1,)]",
        "exec('1')",
        "f'{1}'",
        "x := 1",
        "1 if print(1) else 2",
    ],
)
def test_nothing_is_executed(text: str) -> None:
    with pytest.raises(IniError):
        evaluate(text)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "10**100000",
        "(-10)**100001",
        "2.0**5000",
        "1e999",
        "1e308 * 10",
        "*".join(["10**300"] * 40),
        "9" * 1990,
        "round(5, -1000000000)",
        "-" * 1990 + "1",
        "not " * 400 + "1",
        "(" * 990 + "1" + ")" * 990,
        "+".join(["1"] * 990),
        "max(" * 190 + "1" + ", 1)" * 190,
        "1" * 3000,
    ],
)
def test_what_is_too_large_is_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(IniError):
        evaluate(text)
    assert time.process_time() - start < 0.5


def test_a_number_of_any_float_is_not_too_large() -> None:
    assert evaluate("2**1023") == 2**1023
    assert evaluate("10.0**300") == 1e300
