"""Files of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qatlab.errors import ConfigError
from qatlab.system.files import read_json, read_yaml_mapping, write_bytes, write_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(  # each is synced to the disk
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.dictionaries(st.text(), VALUES))
def test_what_is_written_as_json_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]
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


def test_files_that_are_no_plain_mappings_are_refused_at_once(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x]\n" + "".join(
        f"b{i}: &b{i} [{', '.join(['*' + ('a' if i == 0 else f'b{i - 1}')] * 9)}]\n"
        for i in range(30)
    )
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for content, words in (
        (bomb.encode(), r"\*a refers to another part of the file \(line 2\)"),
        (b"[" * 100_000, "nest"),
        (b"- 1\n- 2\n", "it holds no mapping"),
        ("seed: 1".encode("utf-16"), r"not UTF-8 text \(byte 0\)"),
        (b"a: !!bool x\n", r"tag:yaml.org,2002:bool is not a plain value \(line 1\)"),
        (b"a: !!int ''\n", r"is not a plain value"),
        (b"a: 1" + b":59" * 200 + b".5\n", "too large"),
        (b"a: [1\n", r"did not find expected|expected ',' or '\]'"),
    ):
        file = tmp_path / "file.yaml"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"cannot read .*file.yaml: .*{words}"):
            read_yaml_mapping(file)
    for content, words in (
        (b"[1]", "it holds no mapping"),
        (b"", "Expecting value"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"size_bytes": 1e400}', "1e400 is too large a number"),
    ):
        file = tmp_path / "file.json"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"cannot read .*file.json: .*{words}"):
            read_json(file)
    for place, words in ((pipe, "a pipe or a device"), (tmp_path, "it is a folder")):
        with pytest.raises(ConfigError, match=words):
            read_yaml_mapping(place)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [" + "x," * 20_000 + "x]", r"it has more than 20,000 values \(line 1\)$"),
        ("a: 0x" + "f" * 1000, r"a number of more than 1000 characters \(line 1\)$"),
        ("a: 1" + ":1" * 500, r"a number of more than 1000 characters"),  # to base 60
        ("a: &" + "b" * 1000 + " 1\nc: *" + "b" * 1000, r"\*b{40} refers to another part"),
        ("a: !<" + "b" * 1000 + "> 1", r": b{40} is not a plain value"),
    ],
)
def test_yaml_is_of_bounded_size_when_it_is_read(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_yaml_mapping(file)
    file.write_text(f"a: '{'1' * 5000}'")
    assert read_yaml_mapping(file) == {"a": "1" * 5000}  # a text


def test_json_is_of_bounded_size_when_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    for part in ("[]", "{}", '""'):
        file.write_text(f'{{"a": [{f"{part}," * 500_000}1]}}')
        with pytest.raises(ConfigError, match=r"more than 500,000 mappings, lists and texts$"):
            read_json(file)
    file.write_text('{"a": 1' + "0" * 1000 + ".0}")
    with pytest.raises(ConfigError, match=r": 10{39} is too large a number$"):
        read_json(file)
    with pytest.raises(ConfigError, match="it has 1 kB, and at most 1 kB are read"):
        read_json(file, 1000)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"cannot write .*: "):
        write_bytes(tmp_path / "full" / "file.json", b"x")
    assert sorted(tmp_path.iterdir()) == before
