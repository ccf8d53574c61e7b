"""Templates: section 1.4 of the grammar, each command by itself."""

from __future__ import annotations

import pytest

from ini_compat.errors import IniError
from ini_compat.syntax.render import Value, Work, render
from ini_compat.syntax.template import parse


def lines(text: str, **variables: str) -> list[tuple[str, int]]:
    """Each line that is not blank, with the line of the template that produced it."""
    given = {name: Value(value) for name, value in variables.items()}
    produced = render(parse(text, "x.tpl"), given, Work())
    return [(line.text, line.place.line) for line in produced if line.text.strip()]


def rendered(text: str, given: dict[str, str] | None = None) -> str:
    values = {name: Value(value) for name, value in (given or {}).items()}
    return "\n".join(line.text for line in render(parse(text, "x.tpl"), values, Work()))


def message(text: str, given: dict[str, str] | None = None) -> str:
    with pytest.raises(IniError) as error:
        rendered(text, given)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[{{NAME}}_1x1] conv_def", "[c_1x1] conv_def"),
        ("{{ NAME }}{{N}}", "c3"),
        ("$([{{NAME}}]NbOutputs * {{N}})", "$([c]NbOutputs * 3)"),
        ("${{{NAME}}}", "${c}"),
        ("{ {NAME}} { % }", "{ {NAME}} { % }"),
        ("; {{NAME}}", "; c"),  # commands see the text before comments are removed
        ("{% if NAME exists %}a{% endif %}", "a"),
        ("{% if NONE exists %}a{% endif %}", ""),
        ("{% if NONE not_exists %}a{% else %}b{% endif %}", "a"),
        ("{% if NAME not_exists %}a{% else %}b{% endif %}", "b"),
        ("{% if NAME == c %}a{% endif %}", "a"),
        ("{% if NAME==c %}a{% endif %}", "a"),
        ("{% if NAME == N %}a{% else %}b{% endif %}", "b"),  # a value, not a variable
        ("{% if NAME != c %}a{% else %}b{% endif %}", "b"),
        ("{% if N != 4 %}a{% endif %}", "a"),
        ("{% if NAME exists %}{% if N == 4 %}a{% else %}b{% endif %}{% endif %}", "b"),
        ("{% for i in range(1,4) %}{{i}} {% endfor %}", "1 2 3 "),
        ("{% for i in range(3) %}{{i}} {% endfor %}", "0 1 2 "),
        ("{% for i in range( 1 , N ) %}{{i}} {% endfor %}", "1 2 "),
        ("{% for i in range(N) %}{{i}}{{NAME}} {% endfor %}", "0c 1c 2c "),
        ("{% for i in range(3,1) %}{{i}}{% endfor %}", ""),
        (
            "{% for i in range(2) %}{% for j in range(2) %}{{i}}{{j}} {% endfor %}{% endfor %}",
            "00 01 10 11 ",
        ),
        ("{% block N %}{{#}} {% endblock %}", "0 1 2 "),
        ("{% block B %}{{#}}{{X}}{{Y}} {% endblock %}", "0p5 1q5 "),
        ("{% block N %}{{C[#].X}} {% endblock %}", "r s t "),
        ("{% set NAME %}{{NAME}}_proj{% endset %}{{NAME}}", "c_proj"),
        ("{% if N exists %}{% set NEW %}1{% endset %}{% endif %}{{NEW}}", "1"),
        ("{% set N %}2{% endset %}{% block N %}{{#}}{% endblock %}", "01"),
    ],
)
def test_commands(text: str, expected: str) -> None:
    given = {"NAME": "c", "N": "3", "B": "2", "B[0].X": "p", "B[1]X": "q", "Y": "5"}
    given |= {f"C[{index}].X": letter for index, letter in enumerate("rst")}
    assert rendered(text, given) == expected


def test_values_are_not_read_as_commands() -> None:
    assert rendered("{{A}}", {"A": "{{A}}{% x"}) == "{{A}}{% x"


def test_every_line_knows_where_it_was_written() -> None:
    text = (
        "[a]\n{% if X exists %}\nB=1\n{% else %}\nB=2\n{% endif %}\n"
        "{% for i in range(2) %}\nC{{i}}={{i}}\n{% endfor %}\n"
        "{% set D %}x{% endset %}\nE={{D}}"
    )
    expected = [("[a]", 1), ("B=2", 5), ("C0=0", 8), ("C1=1", 8), ("E=x", 11)]
    assert lines(text) == expected
    assert lines(text.replace("\n", "\r\n")) == expected


def test_a_line_stands_where_its_first_visible_text_does() -> None:
    text = "{% if X exists %}\n{% endif %}A=1\n  {{X}}={{X}}\n"
    assert lines(text, X="k") == [("A=1", 2), ("  k=k", 3)]
    assert lines("{% if X exists %}  {% else %}\n{% endif %}A=1", X="k") == [("  A=1", 2)]


def test_only_lines_with_evaluated_values_are_evaluated() -> None:
    given = {"A": Value("8.0", evaluated=True), "B": Value("8.0")}
    text = "{{A}}\n{{B}}\n{% set C %}{{A}}{% endset %}{{C}}"
    produced = render(parse(text, "x.tpl"), given, Work())
    assert [line.evaluated for line in produced] == [True, False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n{{NAM}}", "x.tpl:2: the template variable 'NAM' is not defined. Did you mean 'NAME'?"),
        ("; {{NONE}}", "x.tpl:1: the template variable 'NONE' is not defined."),
        ("{% if NONE == 1 %}{% endif %}", "x.tpl:1: the template variable 'NONE' is not defined."),
        ("{% block NAME %}{% endblock %}", "x.tpl:1: 'NAME' is 'c' and counts nothing."),
        ("{% for i in range(X) %}{% endfor %}", "x.tpl:1: the template variable 'X' is not"),
        ("{% for i in range(20000) %}{% endfor %}", "x.tpl:1: a loop repeats more than 10000"),
        ("{% for i in 3 %}{% endfor %}", "x.tpl:1: 'for i in 3' is malformed: the form is 'for"),
        ("{% if NAME %}{% endif %}", "x.tpl:1: 'if NAME' is malformed: the form is 'if"),
        ("{% if NAME == %}{% endif %}", "x.tpl:1: 'if NAME ==' is malformed"),
        ("{% block %}{% endblock %}", "x.tpl:1: 'block' is malformed: the form is 'block VAR"),
        ("{% set A B %}{% endset %}", "x.tpl:1: 'set A B' is malformed: the form is 'set VAR"),
        ("\n{% if NAME exists %}\n", "x.tpl:2: this 'if' is not closed by '{% endif %}'."),
        ("{% if A exists %}{% else %}", "x.tpl:1: this 'if' is not closed by '{% endif %}'."),
        ("{% for i in range(2) %}{% endif %}", "x.tpl:1: '{% endif %}' has nothing to end."),
        ("\n\n{% endif %}", "x.tpl:3: '{% endif %}' has nothing to end."),
        ("{% fi X %}", "x.tpl:1: '{% fi %}' is not a command of templates."),
        (
            "{% sett X %}",
            "x.tpl:1: '{% sett %}' is not a command of templates. Did you mean 'set'?",
        ),
        ("\n{{NAME\n}}", "x.tpl:2: '{{' is not closed on its line."),
        ("{% if", "x.tpl:1: '{%' is not closed on its line."),
        ("{{}}", "x.tpl:1: there is nothing after '{{'."),
        ("{{A B}}", "x.tpl:1: 'A B' is not a variable name."),
        ("{% if A exists %}" * 30 + "{% endif %}" * 30, "x.tpl:1: commands are nested more than"),
    ],
)
def test_what_is_wrong_with_a_template(text: str, expected: str) -> None:
    assert message(text, {"NAME": "c"}).startswith(expected)


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(9999) %}" * 4 + "{% endfor %}" * 4,
        "{% for i in range(9999) %}" * 2 + "x" * 5000 + "{% endfor %}" * 2,
        "{% set A %}xxxxxxxx{% endset %}" + "{% set A %}{{A}}{{A}}{% endset %}" * 40,
        "{% for i in range(500) %}" + "\n" * 1000 + "{% endfor %}",
        "{% block N %}" * 15 + "{% if Z exists %}{% endif %}" + "{% endblock %}" * 15,
    ],
)
def test_a_template_cannot_go_on_for_ever(text: str) -> None:
    assert "this file is too large or repeats itself" in message(text, {"N": "2"})
