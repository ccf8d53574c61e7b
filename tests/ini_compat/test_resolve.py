"""Sections of a whole file: order, inheritance, templates, definitions from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ini_compat.errors import Deviation, IniError, Place
from ini_compat.syntax.resolve import COMPUTED_KEYS, Document

Read = Callable[..., Document]


def message(read: Callable[[], object]) -> str:
    with pytest.raises(IniError) as error:
        read()
    return str(error.value)


def test_sections_are_in_the_order_of_the_file(document: Read) -> None:
    read = document("X=1\n[sp.Transformation-2]\n[sp.Transformation-1]\n[a]\n")
    assert list(read.sections) == ["sp.Transformation-2", "sp.Transformation-1", "a"]
    assert read.has("a")
    assert not read.has("b")
    assert not read.has("")


def test_a_section_that_is_not_there(document: Read) -> None:
    read = document("[conv1]\n")
    assert read.section("conv1").name == "conv1"
    expected = "model.ini:9: there is no section [conv2]. Did you mean 'conv1'?"
    assert message(lambda: read.section("conv2", Place("model.ini", 9))) == expected
    assert message(lambda: read.section("conv2")) == expected.removeprefix("model.ini:9: ")


def test_names_are_case_sensitive(document: Read) -> None:
    read = document("[A]\nx=1\nX=2\n[a]\n")
    assert (read.section("A").text("x"), read.section("A").text("X")) == ("1", "2")
    assert read.deviations == []


def test_the_first_parent_wins_and_own_keys_override(document: Read) -> None:
    text = "[p]\nX=p\nY=p\nZ=p\n[q]\nX=q\nW=q\n[a]q p\nZ=a\n[b] a\n"
    read = document(text)
    values = {key: read.section("b").text(key) for key in "XYZW"}
    assert values == {"X": "q", "Y": "p", "Z": "a", "W": "q"}
    assert read.section("a").parents == ["q", "p"]
    assert read.deviations == []  # to override what was inherited is what inheritance is for


def test_what_is_written_to_a_parent_later_is_not_inherited(document: Read) -> None:
    expected = (
        "model.ini:1: the section [a] inherits from [conv_deg], which is not defined before it."
    )
    assert message(lambda: document("[a] conv_deg\n[conv_def]\n")) == expected
    assert message(lambda: document("[conv_def]\n[a] conv_deg\n")).endswith(
        "before it. Did you mean 'conv_def'?"
    )
    assert "[a] inherits from [a]" in message(lambda: document("[a] a\n"))


def test_a_duplicate_section_is_an_error(document: Read) -> None:
    expected = "model.ini:3: the section [a] is already defined at model.ini:1."
    assert message(lambda: document("[a]\n[b]\n[a]\n")) == expected


def test_of_a_duplicate_key_the_last_counts_and_the_other_is_lost(document: Read) -> None:
    read = document("$V=1\n$V=2\n[p]\nX=1\n[a] p\nX=2\nX=3\n")
    assert read.section("a").text("X") == "3"
    assert read.globals.text("$V") == "2"
    reason = "the same key is set again at model.ini:{}, which is what counts"
    assert read.deviations == [
        Deviation(Place("model.ini", 1), "$V", "ignored", reason.format(2)),
        Deviation(Place("model.ini", 6), "[a] X", "ignored", reason.format(7)),
    ]


def test_definitions_from_outside_replace_global_ones(document: Read) -> None:
    text = "$LR=0.1\n$TWO=$(${LR} * 2)\n[a]\nX=${LR}\nY=${TWO}\n[b]\n$LR=5\nX=${LR}\n"
    read = document(text, defines={"LR": "0.5"})
    assert read.section("a").real("X") == 0.5
    assert read.section("a").real("Y") == 1.0
    assert read.section("b").real("X") == 5.0
    assert read.deviations == []
    expected = "-D LRR: the file does not define $LRR. Did you mean 'LR'?"
    assert message(lambda: document(text, defines={"LRR": "1"})) == expected
    wrong = document(text, defines={"LR": "$(1 +)"})
    assert message(lambda: wrong.section("a").real("X")).startswith("-D LR=$(1 +): '$(1 +)'")
    assert message(lambda: document("[a]\n$LR=1\n", defines={"LR": "1"})).endswith("define $LR.")
    assert document("$LR=1", defines={"LR": "2"}).globals.text("$LR") == "2"


# -- templates ----------------------------------------------------------------------------------

BLOCK = """\
[{{SECTION_NAME}}_conv] conv_def
Input={{INPUT}}
NbOutputs=$([{{INPUT}}]NbOutputs * {{EXPANSION}})
Parent=${PARENT_SECTION_NAME}
Previous=${PREV_SECTION_NAME}
{% if RESIDUAL exists %}

[{{SECTION_NAME}}_sum]
Input={{SECTION_NAME}}_conv,{{INPUT}}
Previous=${PREV_SECTION_NAME}
{% endif %}
"""
MODEL = """\
$E=3
[conv_def]
Type=Conv
[conv0] conv_def
NbOutputs=8

[block1@block.tpl]
INPUT=conv0
EXPANSION=$(${E} * 2)
RESIDUAL=1
UNUSED=1
[after]
Input=block1_sum
Previous=${PREV_SECTION_NAME}
"""


def test_the_sections_of_a_template_follow_the_one_that_includes_it(document: Read) -> None:
    read = document(MODEL, {"block.tpl": BLOCK})
    assert list(read.sections) == [
        *("conv_def", "conv0", "block1", "block1_conv", "block1_sum", "after")
    ]
    conv, total = read.section("block1_conv"), read.section("block1_sum")
    assert conv.text("Type") == "Conv"
    assert conv.integer("NbOutputs") == 48
    assert total.text("Input") == "block1_conv,conv0"
    assert conv.template == total.template == "block1"
    assert read.section("block1").template is None
    assert not read.section("block1").has("Input")
    assert read.section("block1").unused() == ["UNUSED"]
    assert str(conv.place("NbOutputs")) == "block.tpl:3"
    assert str(total.header) == "block.tpl:8"
    assert "$PARENT_SECTION_NAME" not in conv


def test_names_of_the_sections_around(document: Read) -> None:
    read = document(MODEL, {"block.tpl": BLOCK})
    assert read.section("block1_conv").text("Parent") == "block1"
    previous = {
        name: read.section(name).text("Previous") for name in ("block1_conv", "block1_sum", "after")
    }
    assert previous == {
        "block1_conv": "conv0",  # the section that includes the template is not counted
        "block1_sum": "block1_conv",
        "after": "block1_sum",
    }


def test_a_template_at_the_end_of_the_file(document: Read) -> None:
    read = document(MODEL.partition("[after]")[0], {"block.tpl": BLOCK})
    assert list(read.sections)[-1] == "block1_sum"


def test_what_a_template_computed_is_floored_like_any_other(document: Read) -> None:
    files = {"x.tpl": "[{{SECTION_NAME}}_1]\nX={{HALF}}\nY={{REAL}}\n"}
    read = document("[a@x.tpl]\nHALF=$(7 / 2)\nREAL=3.5\n", files)
    assert read.section("a_1").integer("X") == 3
    assert "Y=3.5 is wrong. Accepted: an integ" in message(lambda: read.section("a_1").integer("Y"))


def test_variables_of_a_template_are_inherited_too(document: Read) -> None:
    files = {"x.tpl": "[{{SECTION_NAME}}_1]\nX={{A}}{{B}}\n"}
    read = document("[p]\nA=1\nB=2\n[a@x.tpl] p\nB=3\n", files)
    assert read.section("a_1").text("X") == "13"


def test_the_name_for_files(document: Read) -> None:
    """Made as the names of parameter files are: what no file system takes becomes "_"."""
    files = {"x.tpl": "[{{SECTION_NAME}}_1]\nX={{SECTION_FILE_NAME}}\n"}
    assert document("[a:b?@x.tpl]\n", files).section("a:b?_1").text("X") == "a_b_"


def test_templates_in_templates(document: Read) -> None:
    files = {
        "sub/outer.tpl": "[{{SECTION_NAME}}.0]\n[{{SECTION_NAME}}.in@inner.tpl]\nN={{N}}\n"
        "[{{SECTION_NAME}}.2]\nP=${PREV_SECTION_NAME}\n",
        "sub/inner.tpl": "[{{SECTION_NAME}}.1]\nX={{N}}\nP=${PARENT_SECTION_NAME}\n"
        "Q=${PREV_SECTION_NAME}\n",
    }
    read = document("[a@sub/outer.tpl]\nN=4\n[b]\n", files)
    assert list(read.sections) == ["a", "a.0", "a.in", "a.in.1", "a.2", "b"]
    inner = read.section("a.in.1")
    assert [inner.text(key) for key in "XPQ"] == ["4", "a.in", "a.0"]
    assert (inner.template, read.section("a.in").template) == ("a.in", "a")
    assert str(inner.place("X")) == "sub/inner.tpl:2"
    assert read.section("a.2").text("P") == "a.in.1"


def test_what_is_wrong_in_a_template_is_said_there(document: Read) -> None:
    start = "[conv0]\n[a@x.tpl]\nINPUT=conv0\n"
    for template, expected in (
        ("\n[b]\n{{INPT}}", "x.tpl:3: the template variable 'INPT' is not defined. Did you mean"),
        ("\n[conv0]\n", "x.tpl:2: the section [conv0] is already defined at model.ini:1."),
        ("[b] c\n", "x.tpl:1: the section [b] inherits from [c], which"),
        ("X=1\n", "x.tpl:1: a template must begin with a section header."),
        ("[b]\nX\n", "x.tpl:2: Missing value"),
        ('[b]\nX="\n', "x.tpl:2: Malformed property"),
        ("[b]\nX=1\nX={{INPUT}}\n", ""),
    ):
        if expected:
            files = {"x.tpl": template}
            assert message(partial(document, start, files)).startswith(expected)
        else:
            (item,) = document(start, {"x.tpl": template}).deviations
            assert (str(item.place), item.key) == ("x.tpl:2", "[b] X")
    wrong = "[a@x.tpl]\nA=[conv]Y\n[conv]\n"
    assert document(wrong, {"x.tpl": "[b]\nX={{A}}\n"}).section("b").raw("X") == "[conv]Y"


def test_values_that_are_only_computed_later_cannot_shape_a_template(document: Read) -> None:
    text = "[conv]\n[a@x.tpl]\nA=[conv]_OutputsWidth\n"
    expected = "model.ini:3: '[conv]_OutputsWidth' is only known after the section [conv] is built."
    assert message(lambda: document(text, {"x.tpl": "[b]\nX={{A}}\n"})) == expected


def test_an_empty_template_gives_no_section(document: Read) -> None:
    for template in ("", "; nothing\n", "{% if X exists %}[b]{% endif %}"):
        assert list(document("[a@x.tpl]\n", {"x.tpl": template}).sections) == ["a"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("[{{SECTION_NAME}}a@x.tpl]\n", "include each other more than 20 deep"),
        ("[{{SECTION_NAME}}a@x.tpl]\n[{{SECTION_NAME}}b@x.tpl]\n", "include each other more than"),
        ("{% for i in range(9999) %}[{{i}}@y.tpl]\n{% endfor %}[c]\n[d]\n", "more than 10000 sec"),
    ],
)
def test_templates_cannot_go_on_for_ever(document: Read, template: str, expected: str) -> None:
    start = time.process_time()
    files = {"x.tpl": template, "y.tpl": "[{{SECTION_NAME}}_]\n"}
    assert expected in message(lambda: document("[a@x.tpl]\n", files))
    assert time.process_time() - start < 5


def test_inheritance_cannot_multiply_keys(document: Read) -> None:
    keys = "".join(f"K{i}=1\n" for i in range(1000))
    heirs = "".join(f"[h{i}] p\n" for i in range(1000))
    expected = "there are more than 500000 keys"
    assert expected in message(lambda: document(f"[p]\n{keys}{heirs}"))


# -- real files ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_files(shared: Path) -> list[Path]:
    files = sorted((shared / "data/n2d2").rglob("*.ini"))
    if not files:
        pytest.skip("the models of ../shared/data/n2d2 are not here")
    return files


def test_real_files_are_read(real_files: list[Path]) -> None:
    for path in real_files:
        read = Document.read(path, environment={})
        assert len(read.sections) > 9, path
        for section in (read.globals, *read.sections.values()):
            for key in section:
                if any(section.depends_on(key, name) for name in COMPUTED_KEYS):
                    expected = "is only known after the section"
                    assert expected in message(partial(section.text, key))
                else:
                    section.text(key)
            assert section.unused() == []


def test_the_branches_of_a_real_file(real_files: list[Path]) -> None:
    (path,) = (path for path in real_files if path.name == "MobileNet_v2_mini.ini")
    read = Document.read(path, environment={})
    total = read.section("conv3.1_bn_sum")
    assert total.text("Input") == "conv3.1_bn_1x1_linear,bn2"
    assert total.template == "conv3.1"
    assert total.place("Input").file.endswith(".ini.tpl")
    assert read.section("conv3.1_1x1").integer("NbOutputs") == 96  # 16 channels, expanded by 6
    assert read.section("bn4").parents == ["bn_def"]
    assert read.deviations == []
    assert read.notices == []
