"""Values: ``[section]Key``, ``${VAR}`` and ``$(...)``, section 1.2 of the grammar."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from ini_compat.errors import IniError, UnknownValue
from ini_compat.syntax.resolve import Document

Read = Callable[..., Document]


def value(document: Document, section: str = "b", key: str = "X") -> str:
    return document.section(section).text(key)


def message(document: Document, section: str = "b", key: str = "X") -> str:
    with pytest.raises(IniError) as error:
        value(document, section, key)
    return str(error.value)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[a]N", "6"),
        ("[a]N [a]M", "6 7"),
        ("[a]N   [a]M x", "6   7 x"),
        ("$([a]N * 2)", "12"),
        ("[other]N", "[other]N"),  # no such section: left alone
        ("x[0] [a]N", "x[0] 6"),
        ("[[a]N", "[6"),
        ("[]N", "[]N"),
        ("${V}", "5"),
        ("${V}${V}", "55"),
        ("$(${V} + ${V})", "10"),
        ("${W}", "10"),  # variables in variables
        ("$(${W} // 3)", "3"),
        ("${R}", "6"),  # references in variables
        ("${NONE}/x", "${NONE}/x"),  # unknown names stay, for the environment
        ("${}", "${}"),
        ("$V", "$V"),
        ("$(1 + (2 * (3)))", "7"),
        ("$(1)$(2) $(3)", "12 3"),
        ("$(7 / 2)", "3.5"),
        ("$(1 < 2)", "1"),
        ("$( 2 )", "2"),
        ("$(1e-5)", "1e-05"),
        ("${SECTION_NAME}", "b"),
        ("${PREV_SECTION_NAME}", "a"),
        ("[${PREV_SECTION_NAME}]N", "6"),
        ("[${A}]N", "6"),
        ("plain (1 + 2)", "plain (1 + 2)"),
    ],
)
def test_what_a_value_becomes(document: Read, written: str, expected: str) -> None:
    text = f"$V=5\n$W=$(${{V}} * 2)\n$R=[a]N\n$A=a\n[a]\nN=6\nM=7\n[b]\nX={written}\n"
    assert value(document(text)) == expected


def test_a_referenced_key_ends_at_white_space(document: Read) -> None:
    """``[a]X*2`` asks for the key ``X*2``."""
    text = "[a]\nX=3\n[b]\nX=$([a]X * 2)\nY=$([a]X*2)\nZ=[a]X*2\n"
    read = document(text)
    assert value(read) == "6"
    hint = "the section [a] has no such key. A key ends at a space: write '[a]X ...'."
    assert message(read, key="Z") == f"model.ini:6: '[a]X*2': {hint}"
    assert message(read, key="Y").endswith(hint)
    assert value(document("[a]\nX*2=9\n[b]\nX=[a]X*2\n")) == "9"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            "[a]NbOutput",
            "'[a]NbOutput': the section [a] has no such key. Did you mean 'NbOutputs'?",
        ),
        ("[a]", "'[a]': the section [a] has no such key."),
        ("[a", "a '[' in '[a' is not closed by ']'."),
        ("[a]NbOutputs [", "a '[' in '[a]NbOutputs [' is not closed by ']'."),
        ("${V", "a '${' in '${V' is not closed by '}'."),
        ("$(1", "a '$(' in '$(1' is not closed by ')'."),
        ("$(${LRR} * 2)", "'${LRR}' is not defined. Did you mean 'LR'?"),
        ("$(import os)", "'$(import os)' cannot be evaluated: it is not arithmetic."),
        ("$(1/0)", "'$(1/0)' cannot be evaluated: division by zero."),
        ("$([other]N + 1)", "'$([other]N + 1)' cannot be evaluated: '[' is not accepted in "),
    ],
)
def test_what_is_no_value(document: Read, written: str, expected: str) -> None:
    read = document(f"$LR=1\n[a]\nNbOutputs=6\n[b]\nX={written}\n")
    assert message(read).startswith(f"model.ini:5: {expected}")


def test_the_error_is_where_the_wrong_text_was_written(document: Read) -> None:
    read = document("$V=$(1 +)\n[a]\nX=[b]Y\n[b]\nY=${V}\n")
    assert message(read, "a").startswith("model.ini:1: ")


def test_a_definition_of_the_section_comes_before_the_global_one(document: Read) -> None:
    read = document("$V=1\n[a]\n$V=2\nX=${V}\n[b]\nX=${V}\n")
    assert (value(read, "a"), value(read, "b")) == ("2", "1")


def test_an_inherited_value_sees_the_definitions_of_the_child(document: Read) -> None:
    read = document("$V=1\n[a]\n$V=2\nX=${V}\nY=${SECTION_NAME}\n[b] a\n$V=3\n[c] a\n")
    assert [value(read, name) for name in "abc"] == ["2", "3", "2"]
    assert value(read, "b", "Y") == "b"


def test_a_global_definition_sees_the_section_that_reads_it(document: Read) -> None:
    read = document("$V=1\n$W=${V}-${SECTION_NAME}\n[b]\n$V=2\nX=${W}\n")
    assert value(read) == "2-b"


def test_a_referenced_value_is_expanded_in_its_own_section(document: Read) -> None:
    read = document("[a]\n$V=1\nX=${V}${SECTION_NAME}\n[b]\n$V=2\nX=[a]X\n")
    assert value(read) == "1a"


def test_sections_may_be_referenced_before_they_are_written(document: Read) -> None:
    assert value(document("[b]\nX=[c]N\n[c]\nN=4\n")) == "4"


def test_there_is_nothing_before_the_first_section(document: Read) -> None:
    read = document("[b]\nX=${PREV_SECTION_NAME}\n")
    assert message(read) == "model.ini:2: there is no section before this one."


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ("[b]\nX=[c]Y\n[c]\nY=[b]X\n", "[b] X -> [c] Y -> [b] X"),
        ("[b]\nX=[b]X\n", "[b] X -> [b] X"),
        ("$A=${B}\n$B=$(${A} + 1)\n[b]\nX=${A}\n", "[b] $A -> [b] $B -> [b] $A"),
        ("$A=1\n[b]\n$A=${A}\nX=${A}\n", "[b] $A -> [b] $A"),
    ],
)
def test_circles_are_errors(document: Read, text: str, circle: str) -> None:
    assert message(document(text)).endswith(f"depends on itself: {circle}.")


def test_long_chains_are_errors(document: Read) -> None:
    chain = "".join(f"$V{i}=${{V{i + 1}}}\n" for i in range(200))
    read = document(f"{chain}$V200=1\n[b]\nX=${{V0}}\nY=${{V60}}\n")
    assert "refers to others more than 150 deep" in message(read)
    assert value(read, key="Y") == "1"


def test_a_deep_reader_gets_an_error_too(document: Read) -> None:
    chain = "".join(f"[c{i}]\nX=[c{i + 1}]X\n" for i in range(140))
    read = document(f"{chain}[c140]\nX=1\n")

    def deep(frames: int) -> str:
        return deep(frames - 1) if frames else value(read, "c0")

    assert deep(1) == "1"
    with pytest.raises(IniError, match="refers to others too deeply"):
        deep(sys.getrecursionlimit() - len(inspect.stack(0)) - 200)


@pytest.mark.parametrize("separator", ["", " ", "[", "]"])
def test_a_billion_laughs_are_an_error(document: Read, separator: str) -> None:
    text = "$V0=ha\n"
    for i in range(40):
        text += f"$V{i + 1}={separator.join([f'${{V{i}}}'] * 10)}\n"
    read = document(f"{text}[b]\nX=${{V40}}\n")
    start = time.process_time()
    for _ in range(5):
        message(read)
    assert time.process_time() - start < 3


def test_a_value_cannot_grow_without_end(document: Read) -> None:
    read = document(f"$A={'1' * 600_000}\n[b]\nX=${{A}}${{A}}\nY=${{A}}\n")
    assert message(read) == "model.ini:3: a value grows beyond 1000000 characters."
    assert value(read, key="Y") == "1" * 600_000


def test_a_value_of_many_expressions(document: Read) -> None:
    read = document(f"[b]\nX={'$(1 + 1)' * 10_000}\nY={'$(1 + 1)' * 100_000}\n")
    start = time.process_time()
    assert value(read) == "2" * 10_000
    assert "takes too many steps" in message(read, key="Y")
    assert time.process_time() - start < 3


def test_reads_are_limited_together(document: Read) -> None:
    read = document(f"[b]\nX={'${SECTION_NAME}' * 20_000}\n")
    start = time.process_time()
    reads = (value(read) for _ in range(100))
    with pytest.raises(IniError, match="the values of this file take too many steps"):
        list(reads)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("repeated", ["[", "${", "$(", "[a", "${a", "[[a]N "])
def test_odd_texts_take_no_time(document: Read, repeated: str) -> None:
    text = repeated * (100_000 // len(repeated))
    read = document(f"[a]\nN=1\n[b]\nX={text}]\nY={text}}}\nZ={text})\n")
    start = time.process_time()
    for key in "XYZ":
        with suppress(IniError):
            value(read, key=key)
    assert time.process_time() - start < 2


def test_a_computed_value_is_known_once_it_is_set(document: Read) -> None:
    read = document("[sp]\n[b]\nX=$([sp]_EpochSize * 90 / 128)\nY=[sp]_EpochSise\n")
    before = "'[sp]_EpochSize' is only known after the section [sp] is built."
    assert message(read) == f"model.ini:3: {before}"
    read.set_computed("sp", "_EpochSize", "60000")
    assert value(read) == "42187.5"
    assert read.section("b").integer("X") == 42187  # Python 2 divided integers so
    assert message(read, key="Y") == (
        "model.ini:4: '[sp]_EpochSise': the section [sp] has no such key, and it is not one of the "
        "computed ones. Did you mean '_EpochSize'?"
    )


def test_a_computed_key_with_a_dot(document: Read) -> None:
    read = document("[sp.StimuliData-n]\n[b]\nX=[sp.StimuliData-n]_GlobalValue.stdDev\n")
    assert "only known after" in message(read)
    read.set_computed("sp.StimuliData-n", "_GlobalValue.stdDev", "0.25")
    assert read.section("b").real("X") == 0.25


def test_a_computed_value_without_a_section(document: Read) -> None:
    """Cells of an ONNX file have no section of their own."""
    read = document("[b]\nX=[relu0]_OutputsWidth\n")
    assert value(read) == "[relu0]_OutputsWidth"
    read.set_computed("relu0", "_OutputsWidth", "7")
    assert value(read) == "7"


def test_an_unknown_value_says_why_to_whoever_needs_it(document: Read) -> None:
    read = document("[sp]\n[b]\nX=$([sp]_EpochSize * 2)\nY=[b]X\nZ=1\n")
    read.set_unknown("sp", "_EpochSize", "the data is not here")
    for key in "XY":
        with pytest.raises(UnknownValue) as error:
            read.section("b").integer(key, 5)
        expected = "the value of '[sp]_EpochSize' is not known: the data is not here."
        assert str(error.value) == f"model.ini:3: {expected}"
    assert value(read, key="Z") == "1"


@pytest.mark.parametrize("known", [True, False, None])
def test_what_depends_on_a_computed_value(document: Read, known: bool | None) -> None:
    text = "$E=$([sp]_EpochSize / ${B})\n$B=0\n[sp]\nS=3\n[b]\nW=[sp]S\nX=${E}\nY=$([b]X + 1)\n"
    read = document(text)
    if known is True:
        read.set_computed("sp", "_EpochSize", "60000")
    if known is False:
        read.set_unknown("sp", "_EpochSize", "no data")
    section = read.section("b")
    assert [section.depends_on(key, "_EpochSize") for key in "WXYZ"] == [False, True, True, False]
    assert not section.depends_on("X", "_OutputsWidth")
