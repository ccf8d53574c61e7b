"""The experiment's YAML, read back by PyYAML, OmegaConf and Hydra."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ini_compat.yaml_text import block, comment, flow, scalar
from qatlab import config

MISREAD = (
    *("yes", "No", "on", "OFF", "true", "null", "~", "", " ", "y", "n", "None", ".inf", "-.nan"),
    *("1", "-1", "1e5", "1.5e-3", "0x1f", "0o7", "010", "1_000", "12:30:45", "2024-01-02", "+.5"),
    *("2001-12-14t21:59:43.10-05:00", "=", "<<", "*a", "&a", "!tag", "@x", "`x`", "%x", "---"),
    *("a: b", "a #b", "#b", "- a", "? a", "[a]", "{a: b}", "a, b", "'a'", '"a"', "a\\", "\\n"),
    *("${oc.env:HOME}", "\\${oc.env:HOME}", "\\\\${oc.env:HOME}", "${", "${}", "$${x}", "a}b"),
    *("${oc.env:${x}HOME}", "${now:%Y}", "\\", "\\\\", "${x}\\", "a\nb", "a\r\nb", "\ttab", "a "),
    *("\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\xa0", "\u2028", "\u2029", "\ufeff", "\ufffe"),
    *(
        "\uffff",
        "\ud800",
        "é",
        "网络",
        "\U0001d518",
        "🙂",
        "~/data",
        "C:\\data",
        "//host/x",
        "a" * 100_000,
    ),
)
TEXTS = st.text(
    st.one_of(st.sampled_from("\\${}:'\" \n\t.~1e5-?*&#%@`|>,[]!=oc"), st.characters()), max_size=30
).filter(lambda text: text != "???")  # OmegaConf has no way to write that


def loaded(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(text), resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("text", MISREAD, ids=lambda text: ascii(text[:20]))
def test_texts_that_yaml_or_omegaconf_would_misread(text: str) -> None:
    assert loaded(f"key: {scalar(text)}\n") == {"key": text}
    assert loaded(f"key: {flow([text, text])}\n") == {"key": [text, text]}


@given(TEXTS)
def test_any_text(text: str) -> None:
    assert loaded(f"key: {scalar(text)}\n") == {"key": text}
    assert "\n" not in scalar(text)


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False)))
def test_any_value_keeps_its_type(value: Any) -> None:
    read = loaded(f"key: {scalar(value)}\n")["key"]
    assert read == value
    assert type(read) is type(value)


def test_a_number_that_is_none() -> None:
    assert math.isnan(loaded(f"key: {scalar(math.nan)}\n")["key"])


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.from_regex("[a-z_]+"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z_0-9]*", fullmatch=True), VALUES, max_size=4))
def test_any_mapping_is_read_as_it_was(node: dict[str, Any]) -> None:
    paths = [f"{a}.{b}" for a, v in node.items() if isinstance(v, dict) for b in v]
    for opened in ((), list(node), [*node, *paths]):
        lines = block(node, opened, {key: "remark" for key in [*node, *paths]})
        assert loaded("\n".join(lines)) == node or node == {}


def test_each_opened_mapping_has_a_line_for_each_key() -> None:
    node = {"model": {"layers": {"conv1": {"type": "conv", "kernel": [5, 5]}}, "empty": {}}}
    assert block(
        node, ["model", "model.layers", "model.empty"], {"model.layers.conv1": "6x28"}
    ) == [
        "model:",
        "  layers:",
        "    conv1: {type: conv, kernel: [5, 5]}   # 6x28",
        "  empty: {}",
    ]


@pytest.mark.parametrize("text", ["a\nb: c", "\x1b[31m", "a\u2028b", "a\rb", "\ud800", "a\x85b"])
def test_nothing_ends_a_comment(text: str) -> None:
    assert yaml.safe_load(comment(text)) is None
    assert len(comment(text).splitlines()) == 1
    comment(text).encode()  # it can be written


def test_hydra_composes_texts_without_reading_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config.register()
    texts = {f"text{number}": text for number, text in enumerate(MISREAD)}
    (tmp_path / "experiment").mkdir()
    lines = ["# @package _global_", *block({"data": {"source": texts}}, ["data", "data.source"])]
    (tmp_path / "experiment/x.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        overrides = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=x", "name=x", "folder=x"]
        cfg = compose("config", overrides)
    assert {key: cfg.data.source[key] for key in texts} == texts
