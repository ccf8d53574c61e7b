"""Values as types (section 1.3 of the grammar), and which keys have been read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from ini_compat.errors import IniError
from ini_compat.syntax.resolve import Document, Section

Read = Callable[..., Document]


@pytest.fixture
def section(document: Read) -> Callable[[str], Section]:
    """Return a function that gives the section of one line ``X=...``."""

    def read(value: str) -> Section:
        return document(f"[a]\nX={value}\n").section("a")

    return read


OneLine = Callable[[str], Section]


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(IniError) as error:
        read()
    return str(error.value)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("6", 6),
        ("-6", -6),
        ("+6", 6),
        ("007", 7),
        ("$(7 / 2)", 3),  # the floor: what Python 2 gave for shipped files
        ("$(-7 / 2)", -4),
        ("$(16 * 0.5)", 8),
        ("$(1e3)", 1000),
    ],
)
def test_integers(section: OneLine, written: str, expected: int) -> None:
    assert section(written).integer("X") == expected
    assert section(written).integers("X") == [expected]


@pytest.mark.parametrize(
    "written",
    [
        "2.5",
        "2.0",
        "1e3",
        "",
        "six",
        "6 7",
        "0x10",
        "1_000",
        "\u0663",
        "--1",
        "9" * 400,
    ],
)
def test_what_is_no_integer(section: OneLine, written: str) -> None:
    message = refused(lambda: section(written).integer("X"))
    assert message.startswith("model.ini:2: [a] X=")
    assert message.endswith("Accepted: an integer")


@pytest.mark.parametrize("written", ["9223372036854775808", "$(2**80)", "$(1e300)"])
def test_an_integer_has_64_bits(section: OneLine, written: str) -> None:
    assert refused(lambda: section(written).integer("X")).endswith("an integer of 64 bits")


def test_an_unsigned_value_has_no_minus(section: OneLine) -> None:
    assert section("6").unsigned("X") == 6
    for written in ("-1", "-0", "$(-1/2)"):
        read = partial(section(written).unsigned, "X")
        assert "Accepted: an integer of at least 0" in refused(read)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("0.5", 0.5), (".5", 0.5), ("5.", 5.0), ("-1e-3", -1e-3), ("3", 3.0), ("$(1 / 4)", 0.25)],
)
def test_reals(section: OneLine, written: str, expected: float) -> None:
    assert section(written).real("X") == expected
    assert section(f"1 {written}").reals("X") == [1.0, expected]


@pytest.mark.parametrize("written", ["", ".", "1,5", "inf", "nan", "1 2", "1e", "1e999", "5f"])
def test_what_is_no_real(section: OneLine, written: str) -> None:
    assert "is wrong. Accepted: a" in refused(lambda: section(written).real("X"))


def test_truth_is_0_or_1(section: OneLine) -> None:
    assert section("1").boolean("X") is True
    assert section("0").boolean("X") is False
    assert section("$(1 > 2)").boolean("X") is False
    for written in ("true", "True", "2", "", "01", "1.0"):
        message = refused(partial(section(written).boolean, "X"))
        assert message.endswith("Accepted: 0 or 1")


def test_a_choice_is_an_exact_word(section: OneLine) -> None:
    assert section("Max").choice("X", ("Max", "Average")) == "Max"
    message = refused(lambda: section("max").choice("X", ("Max", "Average")))
    assert message == (
        "model.ini:2: [a] X=max is wrong. Did you mean 'Max'? Accepted: Max, Average"
    )


def test_lists_are_separated_by_white_space(section: OneLine) -> None:
    assert section(" 3 \t 4 ").words("X") == ["3", "4"]
    assert section("3 4").integers("X") == [3, 4]
    assert section("").words("X") == []
    assert section("").integers("X") == []
    assert section("a, b").words("X") == ["a,", "b"]
    assert "X=3, is wrong. Accepted: an integer" in refused(lambda: section("3, 4").integers("X"))


def test_a_text_is_not_split_or_trimmed_further(section: OneLine) -> None:
    """The space in ``Input=a, b`` belongs to the name."""
    assert section("a, b").text("X").split(",") == ["a", " b"]


def test_a_missing_key_is_an_error_or_the_default(document: Read) -> None:
    section = document("\n[conv1]\nNbOutput=6\n").section("conv1")
    expected = "model.ini:2: the section [conv1] needs the key NbOutputs. Did you mean 'NbOutput'?"
    assert refused(lambda: section.integer("NbOutputs")) == expected
    assert refused(lambda: section.raw("NbOutputs")) == expected
    assert section.integer("NbOutputs", 4) == 4
    assert section.integer("NbOutputs", None) is None
    assert section.words("Dims", None) is None
    assert section.reals("Dims", [1.0]) == [1.0]
    assert section.boolean("Flag", default=True) is True


def test_global_keys_have_a_section_too(document: Read) -> None:
    read = document("DefaultModel=Frame_CUDA\n$V=1\n[a]\n")
    assert read.globals is read.section("")
    assert read.globals.text("DefaultModel") == "Frame_CUDA"
    assert refused(lambda: read.globals.text("X")) == (
        "model.ini: the global section needs the key X."
    )


def test_names_of_keys(document: Read) -> None:
    text = "[a]\nInput=x\nSolvers.A=1\n$V=1\n[b] a\nSolvers.B=2\nMapping(x).Size=1\nMapping(y)=1\n"
    section = document(text).section("b")
    assert (
        section.keys()
        == list(section)
        == [*("Input", "Solvers.A", "Solvers.B", "Mapping(x).Size", "Mapping(y)")]
    )
    assert section.prefixed("Solvers.") == {"A": "Solvers.A", "B": "Solvers.B"}
    assert section.matching("Mapping(?)*") == ["Mapping(x).Size", "Mapping(y)"]
    assert section.matching("Mapping(?)") == ["Mapping(y)"]
    assert section.matching("*.B") == ["Solvers.B"]
    assert section.matching("[a-z]*") == []


def test_places_of_keys(document: Read) -> None:
    section = document("[a]\nX=1\nY=1\n[b] a\nY=2\n").section("b")
    assert str(section.header) == str(section.place()) == "model.ini:4"
    assert str(section.place("X")) == "model.ini:2"
    assert str(section.place("Y")) == "model.ini:5"
    assert str(section.place("Z")) == "model.ini:4"


def test_keys_that_nobody_reads(document: Read) -> None:
    read = document("$G=1\n[a]\nX=${V}\nY=1\nZ=1\n$V=1\nU=1\n[b]\nW=[a]Z\n")
    section = read.section("a")
    assert section.has("X")
    assert section.unused() == ["X", "Y", "Z", "U"]
    section.text("X")
    section.mark_used("Y")
    assert section.unused() == ["Z", "U"]
    read.section("b").text("W")
    assert section.unused() == ["U"]
    assert section.raw("U") == "1"
    assert section.unused() == []


def test_reading_an_inherited_key_uses_it_here_and_where_it_was_written(document: Read) -> None:
    text = "[top]\nX=1\nY=1\nZ=1\n[mid] top\nY=2\n[b] mid\n[c] mid\n"
    read = document(text)
    read.section("b").text("X")
    read.section("b").text("Y")
    unused = {name: read.section(name).unused() for name in ("top", "mid", "b", "c")}
    assert unused == {
        "top": ["Y", "Z"],  # its Y is not the one that was read
        "mid": ["Z"],
        "b": ["Z"],
        "c": ["X", "Y", "Z"],
    }
