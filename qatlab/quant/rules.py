"""Rules: "for layers that match this, change these quantizer arguments"."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from qatlab.errors import QuantRuleError, unknown, wrong

WANTED = {
    "name": "a text, or a list of texts",
    "type": "a text",
    "index": "a whole number",
    "kernel": "a text such as 3x3",
    "depthwise": "true or false",
    "normed": "true or false",
}
SELECTORS = tuple(WANTED)
OF_LAYERS = ("kernel", "depthwise", "normed")  # sites have none of these
PARTS = ("weight", "activation")
KEYS = (*SELECTORS, *PARTS, "optional")


@dataclass(frozen=True)
class Target:
    """Something a rule can select: a weight layer, or a site where activations are quantized."""

    name: str  # path in the model, such as "blocks.0.pointwise"
    type: str  # class name of the float module, such as "Conv2d"
    kernel: str | None = None  # height x width of a convolution's kernel, such as "3x3"
    depthwise: bool | None = None  # whether each of a convolution's filters sees one channel
    normed: bool | None = None  # whether a batch norm follows a weight layer


@dataclass(frozen=True)
class Rule:
    """Selectors, combined with *and*, and the changes for each part.

    Attributes:
        key: name of the rule; error messages say ``quant.rules.<key>``.
        selectors: some of ``name`` (glob on the path, or a list of which any matches), ``type``
            (class name), ``index`` (position among the weight layers, or among the sites, negative
            from the end), ``kernel`` and ``depthwise`` (of convolutions only), ``normed`` (whether
            a batch norm follows).
        changes: ``weight`` and ``activation`` to the quantizer arguments they change, or to None,
            which leaves the tensor in float.
        optional: whether it may match nothing, as the rules of presets for all networks.
    """

    key: str
    selectors: Mapping[str, Any]
    changes: Mapping[str, Mapping[str, Any] | None]
    optional: bool = False

    @classmethod
    def parse(cls, key: str, node: Mapping[str, Any]) -> Rule:
        """Read a rule from its configuration node.

        Raises:
            QuantRuleError: for an unknown key, a selector of the wrong type or no change at all.
        """
        where = f"quant.rules.{key}"
        if not isinstance(node, Mapping):
            raise wrong(where, node, f"a mapping of {_accepted()}", kind=QuantRuleError)
        for word in node:
            if word not in KEYS:
                raise QuantRuleError(unknown(f"{where}.{word}", KEYS))
        selectors = {name: node[name] for name in SELECTORS if node.get(name) is not None}
        for name, value in selectors.items():
            if not _fits(name, value):
                raise wrong(f"{where}.{name}", value, WANTED[name], kind=QuantRuleError)
        changes = {part: node[part] for part in PARTS if part in node}
        if not changes:
            raise QuantRuleError(f"{where} changes nothing; give it weight: or activation:")
        of_layers = [name for name in OF_LAYERS if name in selectors]
        if of_layers and "activation" in changes:
            raise QuantRuleError(
                f"{where}.{of_layers[0]} selects layers with weights and cannot be combined with "
                "activation:; select sites by name, type or index, in a rule of their own"
            )
        optional = node.get("optional", False)
        if not isinstance(optional, bool):
            raise wrong(f"{where}.optional", optional, "true or false", kind=QuantRuleError)
        for part, change in changes.items():
            if change is not None and not isinstance(change, Mapping):
                accepted = "a mapping of quantizer arguments, null"
                raise wrong(f"{where}.{part}", change, accepted, kind=QuantRuleError)
        return cls(key, selectors, changes, optional)

    def matches(self, target: Target, index: int, count: int) -> bool:
        """Tell whether the ``index``-th of ``count`` targets is selected."""
        wanted = self.selectors
        return (
            ("name" not in wanted or any(fnmatchcase(target.name, g) for g in self._globs))
            and ("type" not in wanted or target.type == wanted["type"])
            and ("index" not in wanted or wanted["index"] in (index, index - count))
            and ("kernel" not in wanted or target.kernel == wanted["kernel"])
            and ("depthwise" not in wanted or target.depthwise == wanted["depthwise"])
            and ("normed" not in wanted or target.normed == wanted["normed"])
        )

    def split_globs(self) -> list[Rule]:
        """Return a rule for each glob of a list of names: each of them has to match something."""
        if "name" not in self.selectors:
            return [self]
        return [replace(self, selectors={**self.selectors, "name": g}) for g in self._globs]

    @property
    def _globs(self) -> list[str]:
        name: str | list[str] = self.selectors["name"]
        return [name] if isinstance(name, str) else name


@dataclass(frozen=True)
class Decision:
    """What the rules decided for one target: ``arguments`` is None where it stays float."""

    arguments: Mapping[str, Any] | None
    rules: tuple[str, ...]  # keys of the rules that had a say, in order


def resolve(part: str, targets: Sequence[Target], rules: Iterable[Rule]) -> list[Decision]:
    """Apply rules in order to each target; per argument the last match wins.

    Args:
        part: ``weight`` or ``activation``; rules that do not speak of it are passed over.
        targets: the weight layers or the sites, in the order of computation.
        rules: in the order they stand in the configuration.

    Returns:
        One decision for each target.

    Raises:
        QuantRuleError: for a rule, or one glob of its list of names, that matches no target.
    """
    decisions = [Decision({}, ()) for _ in targets]
    for rule in rules:
        if part not in rule.changes:
            continue
        matched: set[int] = set()
        for one in rule.split_globs():
            found = [i for i, t in enumerate(targets) if one.matches(t, i, len(targets))]
            if not found and not rule.optional:
                raise QuantRuleError(_matches_nothing(one, part, targets))
            matched.update(found)
        change = rule.changes[part]
        for i in matched:
            before = decisions[i]
            arguments = None if change is None else _merge(before.arguments or {}, change)
            decisions[i] = Decision(arguments, (*before.rules, rule.key))
    return decisions


def rules_of_bits(bits: Mapping[tuple[str, str], int], key: str) -> dict[str, dict[str, Any]]:
    """Return rules that give layers and sites their bits, one for each part and width.

    Args:
        bits: by part and name.
        key: names of the rules begin with it, as ``searched_weight_4bit``.
    """
    names: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for (part, name), width in bits.items():
        names[part, width].append(re.sub(r"([*?[])", r"[\1]", name))  # no globs
    return {
        f"{key}_{part}_{width}bit": {"name": own, part: {"bits": width}}
        for (part, width), own in sorted(names.items())
    }


def _fits(selector: str, value: Any) -> bool:
    """Tell whether a selector has a value that :data:`WANTED` speaks of."""
    if selector == "index":
        return isinstance(value, int) and not isinstance(value, bool)
    if selector in ("depthwise", "normed"):
        return isinstance(value, bool)
    if selector == "kernel":
        return isinstance(value, str) and re.fullmatch(r"[1-9]\d*x[1-9]\d*", value) is not None
    if selector == "name" and isinstance(value, list):
        return bool(value) and all(isinstance(glob, str) for glob in value)
    return isinstance(value, str)


def _merge(arguments: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**arguments, **change}
    for given, replaced in (("n_steps", "bits"), ("bits", "n_steps")):  # two names of one thing
        if given in change and replaced not in change:
            merged[replaced] = None
    return merged


def _matches_nothing(rule: Rule, part: str, targets: Sequence[Target]) -> str:
    what, word = ("layer", "quantizable layers") if part == "weight" else ("site", "sites")
    asked = ", ".join(f"{key}={value!r}" for key, value in rule.selectors.items())
    names = [target.name for target in targets]
    message = f"quant.rules.{rule.key} ({part}) matches no {what}: {asked}."
    kernels = sorted({target.kernel for target in targets if target.kernel})
    types = sorted({target.type for target in targets})
    for key, accepted in (("name", names), ("type", types), ("kernel", kernels)):
        near = get_close_matches(str(rule.selectors.get(key)), accepted, n=1, cutoff=0.5)
        if key in rule.selectors and near and near[0] != rule.selectors[key]:
            message += f" Did you mean {key}='{near[0]}'?"
            break
    listed = [f"{target.name} ({target.type}{_facts(target)})" for target in targets]
    if len(listed) > 60:
        listed[30:-30] = ["..."]
    return f"{message} The {len(targets)} {word}: {', '.join(listed) or 'none'}"


def _accepted() -> str:
    return ", ".join(KEYS)


def _facts(target: Target) -> str:
    words = [target.kernel] if target.kernel else []
    words += ["depthwise"] if target.depthwise else []
    words += ["normed"] if target.normed else []
    return "".join(f" {word}" for word in words)
