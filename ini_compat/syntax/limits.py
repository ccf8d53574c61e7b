"""How large a file may be and how much work it may cause: no input makes the import hang."""

from __future__ import annotations

from ini_compat.errors import IniError, Place

FILE_BYTES = 10_000_000
TEMPLATE_BYTES = 1_000_000
LINES = 200_000  # of one file
NAME = 1_000  # characters of a section name, a key or a template's path
VALUE = 1_000_000  # characters of a value: an explicit Mapping of 700 x 700 channels fits
SECTIONS = 10_000
ENTRIES = 500_000  # of all sections, each inherited key counted again
INCLUDE_DEPTH = 20
EXPANSION_DEPTH = 150  # a deep network may hand its NbOutputs on from cell to cell
STEPS_OF_A_READ = 50_000  # substitutions, and what long values cost beside them
STEPS = 1_000_000  # of all reads of a document
TEMPLATE_OUTPUT = 10_000_000  # characters that all templates of a document produce
LINE_COST = 50  # what a line costs beside its characters
TEMPLATE_STEPS = 500_000
REPETITIONS = 10_000  # of one loop
NESTING = 20  # of template commands
EXPRESSION = 2_000  # characters
EXPRESSION_DEPTH = 100
NUMBER_BITS = 1_024  # about where floats end
DIGITS = 300  # of a number that is written out
INTEGER = 1 << 63  # what no integer key reaches


class Budget:
    """Counts work down and refuses what goes beyond it."""

    def __init__(self, limit: int, what: str) -> None:
        self.left = limit
        self.what = what

    def spend(self, amount: int, place: Place | None) -> None:
        """Take ``amount`` from what is left, or raise an IniError with the place."""
        self.left -= amount
        if self.left < 0:
            raise IniError(f"{self.what}; this file is too large or repeats itself.", place)
