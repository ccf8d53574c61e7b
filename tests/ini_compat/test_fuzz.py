"""No input hangs or raises anything but an IniError.

The tests glue pieces of real syntax together. Many more inputs, mutated real files among them:

    python -m tests.ini_compat.test_fuzz 100000 [seed] [folder of .ini and .tpl files]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ini_compat.errors import IniError
from ini_compat.syntax.resolve import Document, Section

SECONDS = 1.0  # of processor time, for one input

NAMES = ["a", "b", "c.1", "sp", "conv1", "", "*", "a b", "SECTION_NAME", "PREV_SECTION_NAME"]
KEYS = ["X", "Y", "Input", "NbOutputs", "$V", "$W", "$", "_EpochSize", "Mapping(a).Size", "N"]
TEMPLATES = ["x.tpl", "y.tpl", "./x.tpl", "../x.tpl", "${N2D2_MODELS}/y.tpl", "/etc/passwd", "."]
VALUES = [
    *("1", "0", "-1", "2.5", "1e3", "1e999", "9" * 30, "inf", "true", "", " ", "a,b", "3 3"),
    *("[a]X", "[b]Y", "[a]N * 2", "[a]X*2", "[sp]_EpochSize", "[", "]", "[[a]X]", "[c.1]$V"),
    *("${V}", "${W}", "${N}", "${", "}", "${SECTION_NAME}", "${PREV_SECTION_NAME}", "${V}${W}"),
    *("${PARENT_SECTION_NAME}", "[${PREV_SECTION_NAME}]X", "${a${V}}", "$(", ")", "$()", "(", "$"),
    *("$(1 + 1)", "$(7 / 2)", "$(${V} * ${W})", "$([a]X // 3)", "$(9**9**9)", "$(1/0)", "$(2**-1)"),
    *("$(int(32 * ${V}))", "$(1 if ${V} > 0 else 2.0)", "$(max(1, ${W}))", "$(" * 30, "$(-" * 5),
    *("$(__import__('os'))", "$(1j)", "$(round(1, -999999999))", "$(0x1f)", "$(not 1 and 2 or 3)"),
    *('"', '""', '"a;b"', ";", "#", "\\", "=", "@", "\t", "\r", "\x00", "\x0b", "\u00e9", "\u2028"),
    *("\ud7ff", "\U0001f600", "\u0663", "\ufeff", "a" * 200, "[a]" * 20, "${V}" * 20),
]
COMMANDS = [
    *(
        "{{X}}",
        "{{SECTION_NAME}}",
        "{{",
        "}}",
        "{{ N }}",
        "{{#}}",
        "{{i}}",
        "{{N[0].X}}",
        "{{{X}}}",
    ),
    *("{% if X exists %}", "{% if Y not_exists %}", "{% if N == 3 %}", "{% if N != 3 %}"),
    *("{% else %}", "{% endif %}", "{% for i in range(3) %}", "{% for i in range(1,N) %}"),
    *("{% endfor %}", "{% block N %}", "{% endblock %}", "{% set X %}", "{% endset %}", "{%", "%}"),
    *("{% for i in range(99999) %}", "{% for i in range(9999) %}", "{% nothing %}", "{% if %}"),
    *("{% set X %}{{X}}{{X}}{% endset %}", "{% if X exists %}{% set Y %}1{% endset %}{% endif %}"),
]
LAYOUT = ["\n", "\n\n", "\r\n", "\\\n", " ", "; c\n", "# d\n", '"\n', "\t"]


def header(name: str, template: str, parent: str) -> str:
    return f"[{name}{template}] {parent}\n"


def entry(key: str, *values: str) -> str:
    return f"{key}={''.join(values)}\n"


def use(section: Section, document: Document, keys: list[str]) -> Counter[str]:
    """Read these keys in every way; count what came of it."""
    seen: Counter[str] = Counter()
    reads: list[Callable[[str], object]] = [
        *(section.text, section.integer, section.unsigned, section.real, section.boolean),
        *(section.words, section.integers, section.reals, section.raw),
        *(lambda key: section.choice(key, ("1", "Max")), lambda key: document.path(section, key)),
        lambda key: section.depends_on(key, "_EpochSize"),
    ]
    for key in keys:
        for read in reads:
            error = refusal(partial(read, key))
            seen["errors of values" if error else "values"] += 1
        assert key not in section.unused()
    assert refusal(lambda: section.text("absent"))
    section.matching("*a?*")
    section.prefixed("S")
    return seen


def refusal(read: Callable[[], object]) -> IniError | None:
    """Return the error that the input deserves; any other goes on."""
    try:
        read()
    except IniError as error:
        return error if str(error) else None
    return None


def check(files: dict[str, bytes], folder: Path) -> Counter[str]:
    """Read one input and its values; raise if it takes too long or fails in another way."""
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    start = time.process_time()
    seen: Counter[str] = Counter()
    read: list[Document] = []
    if refusal(lambda: read.append(Document.read(folder / "model.ini", {}, {"HOME": "/"}))):
        seen["refused"] += 1
    for document in read:
        seen["read"] += 1
        document.set_computed("sp", "_EpochSize", "60000")
        document.set_unknown("conv1", "_OutputsWidth", "of nothing")
        sections = [document.globals, *document.sections.values()]
        step = 1 + sum(len(section.entries) for section in sections) // 40  # some of a large file
        for section in sections:
            seen += use(section, document, list(section.entries)[::step])
    elapsed = time.process_time() - start
    assert elapsed < SECONDS, f"{elapsed:.2f} s"
    seen["slowest, in ms"] = int(elapsed * 1000)
    return seen


# -- hypothesis ---------------------------------------------------------------------------------

values = st.sampled_from(VALUES) | st.text(max_size=5)
names = st.sampled_from(NAMES)
ini_lines = st.one_of(
    st.builds(header, names, st.just(""), names),
    st.builds(header, names, st.sampled_from(TEMPLATES).map("@".__add__), names),
    st.builds(entry, st.sampled_from(KEYS), values),
    st.builds(entry, st.sampled_from(KEYS), values, values, values),
    values,
    st.sampled_from(LAYOUT),
)
template_pieces = ini_lines | st.sampled_from(COMMANDS)


def encoded(pieces: list[str]) -> bytes:
    return "".join(pieces).encode("utf-8", "replace")


inis = st.lists(ini_lines, max_size=15).map(encoded)
templates = st.lists(template_pieces, max_size=15).map(encoded)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(inis, templates, templates)
def test_no_file_can_do_harm(tmp_path: Path, ini: bytes, x: bytes, y: bytes) -> None:
    check({"model.ini": ini, "x.tpl": x, "y.tpl": y}, tmp_path)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200))
def test_no_bytes_can_do_harm(tmp_path: Path, ini: bytes) -> None:
    check({"model.ini": ini, "x.tpl": ini, "y.tpl": ini}, tmp_path)


def test_mutated_files_can_do_no_harm(tmp_path: Path) -> None:
    template = "[{{SECTION_NAME}}_1]\n{% if X exists %}\nX={{X}}\n{% endif %}\n"
    originals = {"x.tpl": template, "model.ini": "[a@x.tpl]\nX=1\n[b] a\nY=[a_1]X\n"}
    seen = fuzz(300, Random(0), tmp_path, originals)
    assert seen["read"] > 100
    assert seen["refused"] > 30
    assert seen["values"] > 1000


# -- from the command line ----------------------------------------------------------------------


def glued(random: Random, commands: list[str], size: int) -> str:
    """Glue pieces of syntax together, most of them lines that make sense where they stand."""
    pieces, known = ["[{{SECTION_NAME}}_]\n" if commands else "$V=2\n[sp]\n[a]\nX=3\n"], [""]
    for _ in range(random.randrange(size)):
        kind = random.random()
        if kind < 0.25:
            name = random.choice(NAMES) + random.choice([*"0123456789", "{{SECTION_NAME}}"])
            template = "@" + random.choice(TEMPLATES[:3]) if random.random() < 0.2 else ""
            pieces.append(header(name, template, random.choice(known)))
            known += ["", name.replace(" ", "")]
        elif kind < 0.8 or (kind < 0.95 and not commands):
            chosen = random.choices(VALUES, k=random.choice((1, 1, 1, 2, 4)))
            pieces.append(entry(random.choice(KEYS), *chosen))
        elif kind < 0.95:
            end = {"if": "endif", "for": "endfor", "block": "endblock", "set": "endset"}
            command = random.choice(commands)
            word = command.strip("{% }").partition(" ")[0]
            pieces += [command, f"{{% {end[word]} %}}" if word in end else ""]
        elif kind < 0.97:
            pieces.append(random.choice([*VALUES, *LAYOUT]))
    return "".join(pieces)


def mutated(random: Random, text: str) -> str:
    """Change a file a few times: lines move, go or come twice, pieces of syntax come in."""
    lines = text.split("\n")
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        at, other = random.randrange(len(lines)), random.randrange(len(lines))
        kind = random.randrange(6)
        if kind == 0:
            lines[at] = lines[other]
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            lines[at : at + 1] = [lines[at], lines[other]]
        else:
            piece = random.choice([*VALUES, *COMMANDS, *LAYOUT])
            column = random.randrange(len(lines[at]) + 1)
            cut = column + random.choice((0, 0, 1, 5))
            lines[at] = lines[at][:column] + piece + lines[at][cut:]
    return "\n".join(lines)


def inputs(random: Random, originals: dict[str, str]) -> Iterator[dict[str, bytes]]:
    """Return files without end: glued ones and mutated originals in turn."""
    inis = [name for name in originals if name.endswith(".ini")]
    while True:
        glued_templates = {name: glued(random, COMMANDS, 12) for name in ("x.tpl", "y.tpl")}
        files = {"model.ini": glued(random, [], 25), **glued_templates}
        yield {name: text.encode("utf-8", "replace") for name, text in files.items()}
        files = {name: text for name, text in originals.items() if name not in inis}
        name = random.choice([*files, ""]) or "model.ini"
        files["model.ini"] = originals[random.choice(inis)]
        files[name] = mutated(random, files[name])
        yield {name: text.encode("utf-8", "replace") for name, text in files.items()}


def fuzz(count: int, random: Random, folder: Path, originals: dict[str, str]) -> Counter[str]:
    """Check so many inputs; return what was seen. An input that fails stays in the folder."""
    seen: Counter[str] = Counter()
    for number, files in zip(range(1, count + 1), inputs(random, originals), strict=False):
        if number % 10_000 == 0:
            print(f"{number} inputs", flush=True)
        one = check(files, folder)
        slowest = max(seen["slowest, in ms"], one["slowest, in ms"])
        seen += one
        seen["slowest, in ms"] = slowest
    return seen


if __name__ == "__main__":
    count, seed, *folders = [*sys.argv[1:], "0"][: max(2, len(sys.argv) - 1)]
    found: dict[str, str] = {"model.ini": "[a@x.tpl]\nX=1\n[b] a\nY=[a]X\n", "x.tpl": "[c]\n"}
    for path in sorted(p for folder in folders for p in Path(folder).rglob("*.ini*")):
        with suppress(UnicodeDecodeError):
            found[path.name] = path.read_text(encoding="utf-8")
    place = Path(tempfile.mkdtemp())
    begin = time.process_time()
    print(f"{len(found)} originals; inputs are written to {place}")
    for what, how_many in sorted(fuzz(int(count), Random(int(seed)), place, found).items()):
        print(f"{what}: {how_many}")
    print(f"{time.process_time() - begin:.0f} s")
