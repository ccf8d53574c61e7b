"""What a list of rules decides for each layer, and how it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from qatlab.errors import QuantRuleError
from qatlab.quant.rules import Decision, Rule, Target, resolve, rules_of_bits

LAYERS = [
    Target("stem", "Conv2d", "3x3", False, normed=True),
    Target("blocks.0.depthwise", "Conv2d", "3x3", True, normed=False),
    Target("blocks.0.pointwise", "Conv2d", "1x1", False, normed=True),
    Target("blocks.1.depthwise", "Conv2d", "5x3", True, normed=False),
    Target("blocks.1.pointwise", "Conv2d", "1x1", False, normed=True),
    Target("fc", "Linear", normed=False),
]


def decide(nodes: Mapping[str, Any], part: str = "weight") -> list[Decision]:
    return resolve(part, LAYERS, [Rule.parse(key, node) for key, node in nodes.items()])


def bits_of(nodes: Mapping[str, Any]) -> list[Any]:
    """The bits of the six layers: a dash where no rule speaks, None where they stay float."""
    decisions = decide(nodes)
    return [None if d.arguments is None else d.arguments.get("bits", "-") for d in decisions]


def test_without_rules_no_argument_changes() -> None:
    assert decide({}) == [Decision({}, ())] * 6


@pytest.mark.parametrize(
    ("selectors", "matched"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"name": "fc"}, [5]),
        ({"name": "blocks.*.pointwise"}, [2, 4]),
        ({"name": "blocks.0.*"}, [1, 2]),
        ({"name": "*wise"}, [1, 2, 3, 4]),
        ({"name": "blocks.[01].depthwise"}, [1, 3]),
        ({"name": "?????"}, []),
        ({"name": "STEM"}, []),
        ({"name": "block"}, []),  # a glob is about the whole name
        ({"type": "Linear"}, [5]),
        ({"type": "Conv2d"}, [0, 1, 2, 3, 4]),
        ({"type": "Conv*"}, []),  # a class name, no glob
        ({"index": 0}, [0]),
        ({"index": 5}, [5]),
        ({"index": -1}, [5]),
        ({"index": -6}, [0]),
        ({"index": 6}, []),
        ({"index": -7}, []),
        ({"type": "Conv2d", "index": -1}, []),  # and, not or; the index counts all layers
        ({"name": "blocks.*", "index": 4}, [4]),
        ({"name": "*", "type": "Linear", "index": -1}, [5]),
        ({"name": None, "index": None, "type": "Linear"}, [5]),  # null is no selector
        ({"name": ["fc", "blocks.0.*"]}, [1, 2, 5]),
        ({"name": ["blocks.1.*", "*wise"]}, [1, 2, 3, 4]),  # matched by both, and once
        ({"name": ["stem"]}, [0]),
        ({"name": ["s*", "*.pointwise"], "type": "Conv2d"}, [0, 2, 4]),
        ({"name": ["nothing", "none"]}, []),
        ({"kernel": "1x1"}, [2, 4]),  # a linear layer has no kernel
        ({"kernel": "3x3"}, [0, 1]),
        ({"kernel": "3x5"}, []),  # height comes first
        ({"depthwise": True}, [1, 3]),
        ({"depthwise": False}, [0, 2, 4]),  # convolutions all the same
        ({"kernel": "3x3", "depthwise": False, "index": 0}, [0]),
        ({"normed": True}, [0, 2, 4]),
        ({"normed": False, "type": "Linear"}, [5]),
    ],
)
def test_selectors_combine_with_and(selectors: dict[str, Any], matched: list[int]) -> None:
    rule = Rule.parse("r", {**selectors, "weight": {"bits": 2}})
    found = [i for i, layer in enumerate(LAYERS) if rule.matches(layer, i, len(LAYERS))]
    assert found == matched
    if not matched:
        with pytest.raises(QuantRuleError):
            resolve("weight", LAYERS, [rule])


def test_the_last_match_wins_per_argument() -> None:
    decisions = decide(
        {
            "all": {"weight": {"bits": 4, "grid": "symmetric"}},
            "linear": {"type": "Linear", "weight": {"scaling": True}},
            "last": {"index": -1, "weight": {"bits": 8}},
        }
    )
    assert decisions[0] == Decision({"bits": 4, "grid": "symmetric", "n_steps": None}, ("all",))
    assert decisions[5].arguments == {
        "bits": 8,
        "n_steps": None,
        "grid": "symmetric",
        "scaling": True,
    }
    assert decisions[5].rules == ("all", "linear", "last")


def test_the_order_of_rules_decides() -> None:
    wide, narrow = {"weight": {"bits": 8}}, {"index": 0, "weight": {"bits": 2}}
    assert bits_of({"wide": wide, "narrow": narrow}) == [2, 8, 8, 8, 8, 8]
    assert bits_of({"narrow": narrow, "wide": wide}) == [8, 8, 8, 8, 8, 8]


def test_null_leaves_a_layer_in_float_and_a_later_rule_brings_it_back() -> None:
    nodes: dict[str, Any] = {
        "all": {"weight": {"bits": 4, "grid": "symmetric"}},
        "float": {"name": "blocks.*", "weight": None},
    }
    assert bits_of(nodes) == [4, None, None, None, None, 4]
    nodes["back"] = {"name": "blocks.1.pointwise", "weight": {"bits": 2}}
    assert bits_of(nodes) == [4, None, None, None, 2, 4]
    decision = decide(nodes)[4]
    assert decision.rules == ("all", "float", "back")
    assert decision.arguments == {"bits": 2, "n_steps": None}  # nothing of what was before null
    nodes["default"] = {"index": 1, "weight": {}}
    assert decide(nodes)[1].arguments == {}


def test_bits_and_steps_replace_each_other() -> None:
    ternary, four = {"weight": {"n_steps": 2}}, {"weight": {"bits": 4}}
    assert decide({"a": four, "b": ternary})[0].arguments == {"bits": None, "n_steps": 2}
    assert decide({"a": ternary, "b": four})[0].arguments == {"bits": 4, "n_steps": None}
    # both at once are both handed on, for the quantizer to refuse
    both = {"weight": {"bits": 4, "n_steps": 2}}
    assert decide({"a": both})[0].arguments == {"bits": 4, "n_steps": 2}


def test_the_two_parts_of_a_rule_are_decided_apart() -> None:
    nodes = {
        "r": {"index": 0, "weight": {"bits": 2}, "activation": {"bits": 3}},
        "w": {"weight": {}},
    }
    assert decide(nodes, "weight")[0] == Decision({"bits": 2, "n_steps": None}, ("r", "w"))
    assert decide(nodes, "activation")[0] == Decision({"bits": 3, "n_steps": None}, ("r",))


def test_a_rule_does_not_change_the_one_it_was_read_from() -> None:
    node = {"weight": {"bits": 4}}
    decide({"a": node, "b": {"weight": {"n_steps": 2}}})
    assert node == {"weight": {"bits": 4}}


def message_of(nodes: Mapping[str, Any], part: str = "weight") -> str:
    with pytest.raises(QuantRuleError) as caught:
        decide(nodes, part)
    return str(caught.value)


def test_a_rule_that_matches_nothing_is_reported_with_the_nearest_name_and_all_names() -> None:
    message = message_of({"pointwise": {"name": "block.*.pointwise", "weight": {"bits": 2}}})
    assert message.startswith(
        "quant.rules.pointwise (weight) matches no layer: name='block.*.pointwise'. "
        "Did you mean name='blocks."
    )
    assert "The 6 quantizable layers: stem (Conv2d 3x3 normed), blocks.0.depth" in message
    assert message.endswith("fc (Linear)")


def test_each_glob_of_a_list_has_to_match_something() -> None:
    message = message_of({"r": {"name": ["fc", "steem"], "weight": {"bits": 2}}})
    told = "quant.rules.r (weight) matches no layer: name='steem'. Did you mean name='stem'?"
    assert message.startswith(told)
    # Together with the other selectors, as if each had a rule of its own.
    message = message_of({"r": {"name": ["stem", "fc"], "type": "Conv2d", "weight": {"bits": 2}}})
    assert message.startswith("quant.rules.r (weight) matches no layer: name='fc', type='Conv2d'.")


def test_a_list_of_globs_decides_once_for_each_layer() -> None:
    nodes = {"r": {"name": ["stem", "s*"], "weight": {"bits": 2}}}
    assert bits_of(nodes) == [2, "-", "-", "-", "-", "-"]
    assert decide(nodes)[0].rules == ("r",)


def test_a_type_that_matches_nothing_is_reported_with_the_nearest_type() -> None:
    message = message_of({"r": {"type": "linear", "activation": {"bits": 2}}}, "activation")
    assert message.startswith(
        "quant.rules.r (activation) matches no site: type='linear'. Did you mean type='Linear'? "
        "The 6 sites: stem"
    )


def test_a_match_of_an_earlier_rule_does_not_excuse_a_later_one() -> None:
    nodes = {"a": {"weight": {"bits": 2}}, "b": {"index": 99, "weight": {"bits": 2}}}
    assert "quant.rules.b (weight) matches no layer: index=99" in message_of(nodes)


def test_a_long_list_is_cut_in_the_middle() -> None:
    layers = [Target(f"layer{i}", "Conv2d") for i in range(100)]
    with pytest.raises(QuantRuleError) as caught:
        resolve("weight", layers, [Rule.parse("r", {"name": "x", "weight": {}})])
    message = str(caught.value)
    assert "The 100 quantizable layers" in message
    assert "layer29 (Conv2d), ..., layer70 (Conv2d)" in message


def test_a_kernel_that_no_layer_has_is_reported_with_those_there_are() -> None:
    with pytest.raises(QuantRuleError) as caught:
        decide({"r": {"kernel": "3x5", "weight": {"bits": 2}}})
    message = str(caught.value)
    assert "quant.rules.r (weight) matches no layer: kernel='3x5'. Did you mean kernel=" in message
    assert "blocks.1.depthwise (Conv2d 5x3 depthwise), blocks.1.pointwise (Conv2d 1x1 no" in message
    assert "fc (Linear)" in message


def test_an_optional_rule_may_match_nothing() -> None:
    assert bits_of({"r": {"name": "no*", "optional": True, "weight": {"bits": 2}}}) == ["-"] * 6
    assert bits_of({"r": {"name": "fc", "optional": True, "weight": {"bits": 2}}})[5] == 2


def test_a_network_without_layers_is_reported_so() -> None:
    with pytest.raises(QuantRuleError, match="The 0 quantizable layers: none"):
        resolve("weight", [], [Rule.parse("r", {"weight": {}})])


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (
            {"wieght": {"bits": 2}},
            "quant.rules.r.wieght is unknown.*Did you mean 'weight'",
        ),
        (
            {"bits": 2},
            "r.bits is unknown. Accepted in quant.rules.r: name, type, index, kernel, depthwise, n",
        ),
        ({3: 2}, "r.3 is unknown"),
        ({"index": 0}, "quant.rules.r changes nothing"),
        ({}, "quant.rules.r changes nothing"),
        (4, "quant.rules.r=4 is wrong. Accepted: a mapping"),
        (None, "quant.rules.r=null is wrong. Accepted: a mapping"),
        ([{"weight": {}}], "is wrong. Accepted: a mapping of name"),
        (
            {"index": "0", "weight": {}},
            "quant.rules.r.index='0' is wrong. Accepted: a whole number",
        ),
        (
            {"index": 0.0, "weight": {}},
            "quant.rules.r.index=0.0 is wrong. Accepted: a whole number",
        ),
        (
            {"index": True, "weight": {}},
            "quant.rules.r.index=true is wrong. Accepted: a whole number",
        ),
        ({"index": [0, -1], "weight": {}}, "is wrong. Accepted: a whole number"),
        ({"name": 3, "weight": {}}, "quant.rules.r.name=3 is wrong. Accepted: a text"),
        (
            {"name": [], "weight": {}},
            r"quant.rules.r.name=\[\] is wrong. Accepted: a text, or a list of texts",
        ),
        (
            {"name": ["fc", 3], "weight": {}},
            "name=.* is wrong. Accepted: a text, or a list of texts",
        ),
        (
            {"name": [["fc"]], "weight": {}},
            "name=.* is wrong. Accepted: a text, or a list of texts",
        ),
        (
            {"name": {"a": 1}, "weight": {}},
            "name=.* is wrong. Accepted: a text, or a list of texts",
        ),
        ({"type": ["Linear"], "weight": {}}, r"type=\['Linear'\] is wrong. Accepted: a text.$"),
        ({"type": False, "weight": {}}, "quant.rules.r.type=false is wrong. Accepted: a text"),
        ({"weight": 4}, "quant.rules.r.weight=4 is wrong. Accepted: a mapping .*, null"),
        ({"weight": "null"}, "quant.rules.r.weight=null is wrong"),
        ({"activation": [2]}, "quant.rules.r.activation=.* is wrong"),
        (
            {"kernel": 3, "weight": {}},
            "quant.rules.r.kernel=3 is wrong. Accepted: a text such as 3x3",
        ),
        (
            {"kernel": "3", "weight": {}},
            "quant.rules.r.kernel='3' is wrong. Accepted: a text such as 3x3",
        ),
        ({"kernel": "3 x 3", "weight": {}}, "is wrong. Accepted: a text such as 3x3"),
        (
            {"depthwise": 1, "weight": {}},
            "quant.rules.r.depthwise=1 is wrong. Accepted: true or false",
        ),
        ({"kernel": "1x1", "activation": {}}, "quant.rules.r.kernel selects layers with weights"),
        ({"depthwise": True, "weight": {}, "activation": None}, "quant.rules.r.depthwise selects"),
        (
            {"normed": "no", "weight": {}},
            "quant.rules.r.normed=no is wrong. Accepted: true or false",
        ),
        (
            {"optional": 1, "weight": {}},
            "quant.rules.r.optional=1 is wrong. Accepted: true or false",
        ),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(node: Any, told: str) -> None:
    with pytest.raises(QuantRuleError, match=told):
        Rule.parse("r", node)


def test_rules_of_bits_select_names_as_they_are_written() -> None:
    bits = {("weight", "a[0]"): 4, ("weight", "a0"): 2, ("activation", "b*"): 4}
    rules = [Rule.parse(key, node) for key, node in rules_of_bits(bits, "found").items()]
    targets = [Target(name, "Conv2d") for name in ("a[0]", "a0")]
    found = [own.arguments for own in resolve("weight", targets, rules)]
    assert found == [{"bits": 4, "n_steps": None}, {"bits": 2, "n_steps": None}]
    sites = [Target(name, "ReLU") for name in ("b*", "bb")]
    chosen = [own.arguments for own in resolve("activation", sites, rules)]
    assert chosen == [{"bits": 4, "n_steps": None}, {}]
