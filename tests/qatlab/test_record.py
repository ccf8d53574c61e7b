"""Files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatlab.record import read_json, write_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_is_written_as_json_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    file = tmp_path_factory.mktemp("json") / "value.json"
    write_json(file, value)
    assert read_json(file) == value


def test_rows_of_numbers_take_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "value.json"
    write_json(file, {"confusion": [[1, 2], [3, 4]], "names": ["zero", "one"]})
    assert file.read_text().splitlines() == [
        "{",
        '  "confusion": [',
        "    [1, 2],",
        "    [3, 4]",
        "  ],",
        '  "names": [',
        '    "zero",',
        '    "one"',
        "  ]",
        "}",
    ]
