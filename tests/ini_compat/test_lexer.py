"""Lines become headers and entries: section 1 of the grammar."""

from __future__ import annotations

import pytest

from ini_compat.errors import IniError
from ini_compat.syntax import limits
from ini_compat.syntax.lexer import Entry, Header, lines_of, tokens


def read(text: str) -> list[Header | Entry]:
    return list(tokens(lines_of(text, "model.ini")))


def entry(text: str) -> tuple[str, str]:
    token, *others = read(text)
    assert isinstance(token, Entry)
    assert not others
    return token.key, token.value


def header(text: str) -> tuple[str, str | None, tuple[str, ...]]:
    token, *others = read(text)
    assert isinstance(token, Header)
    assert not others
    return token.name, token.template, token.parents


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("NbOutputs=6", ("NbOutputs", "6")),
        ("  NbOutputs \t= \t 6  ", ("NbOutputs", "6")),
        ("Label=a=b", ("Label", "a=b")),  # split at the first "="
        ("Empty=", ("Empty", "")),
        ("KernelDims=3  3", ("KernelDims", "3  3")),
        ("Mapping(pool1).Size=1", ("Mapping(pool1).Size", "1")),
        ("$W=255;->15", ("$W", "255")),  # no space is needed before a comment
        ("QWeight.Range=255 ;first conv layer", ("QWeight.Range", "255")),
        ("A=1#2;3", ("A", "1")),
        ('A="x;y#z" ; more', ("A", "x;y#z")),
        ('A="x"y"z"', ("A", 'x"y"z')),  # only the outer quotes are lost
        ('A=x "y;z"', ("A", 'x "y;z"')),  # not at both ends: they stay
        ('A=" x "', ("A", " x ")),
        ('A=""', ("A", "")),
        ('A=1 ; the "comment', ("A", "1")),  # a quote in a comment opens nothing
        ("A=\u00a05", ("A", "\u00a05")),  # not white space for N2D2
        ("\ufeffA=1", ("A", "1")),
        ("A=1\r\n", ("A", "1")),
    ],
)
def test_an_entry(line: str, expected: tuple[str, str]) -> None:
    assert entry(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[conv1]", ("conv1", None, ())),
        ("[conv1] conv_def", ("conv1", None, ("conv_def",))),
        ("[bn3]Bn_def", ("bn3", None, ("Bn_def",))),  # no space is needed
        ("[a]\tb \t c", ("a", None, ("b", "c"))),
        ("  [a] b ; c", ("a", None, ("b",))),
        ("[sp.StimuliData-x]", ("sp.StimuliData-x", None, ())),
        ("[conv3.1@dir/x.ini.tpl]", ("conv3.1", "dir/x.ini.tpl", ())),
        ("[a@${N2D2_MODELS}/x.tpl] b", ("a", "${N2D2_MODELS}/x.tpl", ("b",))),
        ("\ufeff[a]", ("a", None, ())),
    ],
)
def test_a_header(line: str, expected: tuple[str, str | None, tuple[str, ...]]) -> None:
    assert header(line) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Type", "Missing value: 'Type' has no '='."),
        ("[conv1", "Missing value: '[conv1' has no '=' (the ']' of a section header is missing)."),
        ("[a;b]", "Missing value: '[a' has no '=' (the ']' of a section header is missing)."),
        ('A="x', "Malformed property: a quote is not closed."),
        ('A="x" "', "Malformed property: a quote is not closed."),
        ("=5", "there is no key before the '=' in '=5'."),
        ("[]", "the header '[]' needs a name."),
        ("[@x.tpl]", "the header '[@x.tpl]' needs a name."),
        ("[a@]", "the header '[a@]' needs a template's path after '@'."),
        ("[a@b@c]", "the header '[a@b@c]' has more than one '@'."),
    ],
)
def test_what_is_neither(line: str, message: str) -> None:
    with pytest.raises(IniError) as error:
        read(f"\n\n{line}\n")
    assert str(error.value) == f"model.ini:3: {message}"


def test_a_trailing_backslash_joins_lines_and_the_first_one_counts() -> None:
    text = "Mapping(pool1)=\\\n1 0 \\\n0 1\nNext=2\n"
    first, second = read(text)
    assert isinstance(first, Entry)
    assert (first.value, first.place.line) == ("1 0 0 1", 1)
    assert second.place.line == 4


def test_lines_are_joined_before_comments_are_removed() -> None:
    assert read("; A=1 \\\nB=2\nC=3") == read("\n\nC=3")
    assert entry("A=1\\\r\n2\r\n") == ("A", "12")


def test_a_backslash_on_the_last_line_joins_nothing() -> None:
    assert entry("A=1\\") == ("A", "1")
    assert read("\\") == []


def test_a_quote_may_not_reach_across_lines() -> None:
    with pytest.raises(IniError, match="Malformed property"):
        read('A="x\ny"\n')


def test_only_line_feeds_end_lines() -> None:
    """Python's splitlines would also cut at these."""
    assert entry("A=1\x0b2\x1c3\x854\u20285") == ("A", "1\x0b2\x1c3\x854\u20285")


def test_blank_lines_and_comments_give_nothing() -> None:
    assert read("") == read("\n \t\n;;; [a]\n# b=1\n") == []


def test_places_are_lines_of_the_file() -> None:
    assert [str(t.place) for t in read("A=1\n\n[b]\n; c\nD=2")] == [
        *("model.ini:1", "model.ini:3", "model.ini:5")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k" * (limits.NAME + 1) + "=1", "a key is longer"),
        ("[" + "k" * (limits.NAME + 1) + "]", "a section name is longer"),
        ("[k@" + "k" * (limits.NAME + 1) + "]", "a path of a template is longer"),
        ("A=" + "1" * (limits.VALUE + 1), "the value of A is longer"),
        ("\n" * limits.LINES, "the file has more than"),
    ],
)
def test_sizes_are_limited(text: str, message: str) -> None:
    with pytest.raises(IniError, match=message):
        read(text)
