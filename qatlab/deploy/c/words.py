"""What C is written with: names, numbers, strings, comments and loops."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Types of whole numbers, the narrowest first.
INTEGERS = {
    f"{sign}int{bits}_t": (0, (1 << bits) - 1) if sign else (-(1 << bits - 1), (1 << bits - 1) - 1)
    for bits in (8, 16, 32, 64)
    for sign in ("u", "")
}
LONGEST_NAME = 40  # C99 tells names apart by their first 63 letters; ours have something in front


def integer_type(low: int, high: int) -> str | None:
    """Return the narrowest type that holds ``low`` to ``high``, None if there is none."""
    fits = (
        kind for kind, (lowest, highest) in INTEGERS.items() if lowest <= low and high <= highest
    )
    return next(fits, None)


def size_of(kind: str) -> int:
    """Return the bytes of a number of a type."""
    return 8 if kind == "double" else int(re.sub(r"\D", "", kind)) // 8


class Identifiers:
    """Gives each name an identifier of its own: ``conv[0]`` and ``conv.0`` are told apart."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        """Return the identifier of a name: something has to stand in front of it."""
        if name not in self._of:
            base = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:LONGEST_NAME]
            found, number = base, 2
            while found in self._of.values():
                found, number = f"{base}_{number}", number + 1
            self._of[name] = found
        return self._of[name]


def comment(lines: Sequence[str]) -> str:
    """Return a comment of some lines, in ASCII."""
    words = [part for line in lines for part in (line.splitlines() or [""])]
    plain = "\n * ".join(map(_harmless, words))
    return f"/* {plain} */".replace(" \n", "\n")


def _harmless(text: str) -> str:
    """Return a text that neither ends a comment, begins one, nor holds a trigraph."""
    ascii_only = text.encode("unicode_escape").decode()
    return re.sub(r"(?<=\*)(?=/)|(?<=/)(?=\*)|(?<=\?)(?=\?)", " ", ascii_only)


def string(text: str) -> str:
    """Return the literal of a string, which C holds in UTF-8."""
    return '"' + "".join(map(_letter, text.encode())) + '"'


def _letter(byte: int) -> str:
    letter = chr(byte)
    if letter in '"\\?':  # two question marks may begin a trigraph
        return "\\" + letter
    return letter if 32 <= byte < 127 else f"\\{byte:03o}"


def number(value: int | float) -> str:
    """Return the literal of a real number, or of a whole one for sums of 64 bits."""
    return value.hex() if isinstance(value, float) else f"INT64_C({value})"


def scaled(word: str, factor: int) -> str:
    """Return C for a number times another."""
    return word if factor == 1 else f"{word} * {factor}"


def moved(words: str, number: int) -> str:
    """Return C for a number plus another."""
    sign = "+" if number > 0 else "-"
    return f"{words} {sign} {abs(number)}" if number else words


def indented(lines: Sequence[str]) -> list[str]:
    """Return lines four columns further right."""
    return [f"    {line}" for line in lines]


def loop(variable: str, count: int | str, body: Sequence[str], start: str = "0") -> list[str]:
    """Return the lines of a loop from ``start`` up to, but without, ``count``."""
    head = f"for (int32_t {variable} = {start}; {variable} < {count}; ++{variable}) {{"
    return [head, *indented(body), "}"]


def function(head: str, body: Sequence[str], about: Sequence[str] = ()) -> str:
    """Return a function with a comment in front of it."""
    return "\n".join([*([comment(about)] if about else []), head, "{", *indented(body), "}"])
