"""The quantizers of a network as ``quant``: what most of them have, and rules for the others."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ini_compat.errors import IniError
from ini_compat.names import unique_key
from ini_compat.network import Network, Node, Quantizer

CLASSES = {
    ("weight", "SAT"): "qatlab.quant.SatWeight",
    ("weight", "LSQ"): "qatlab.quant.LsqWeight",
    ("activation", "SAT"): "qatlab.quant.SatActivation",
    ("activation", "LSQ"): "qatlab.quant.LsqActivation",
}
PLAIN: Node = {  # defaults of the quantizers' arguments
    "bits": None,
    "n_steps": None,
    "grid": "default",
    "scaling": False,
    "clamp_only": False,
    "dead_zeros": False,
    "step_size": "auto",
    "gradient_scale": "paper",
}
WIDTH = ("bits", "n_steps")  # two names of one thing, which people change on the command line
ORDER = (*WIDTH, "alpha", "step_size", "grid", "scaling")
SITES = "*_qact"

Quantizers = Mapping[str, Quantizer | None]
"""Layer -> its quantizer; None for one that stays in float."""


def quant_node(network: Network) -> tuple[Node, str]:
    """Return ``quant``, and the phase that the file describes.

    Raises:
        IniError: for a network that mixes methods of quantization.
    """
    cells = network.cells.values()
    weights: dict[str, Quantizer | None] = {
        layer: cell.weight
        for cell in cells
        for layer, node in cell.layers.items()
        if node["type"] in ("conv", "linear")
    }
    sites = {cell.site: cell.activation for cell in cells if cell.activation}
    quantized = [q for q in weights.values() if q]
    if not quantized and not sites:
        return {}, "float"
    phase = "quantize"
    if not sites and all(q.arguments.get("clamp_only") for q in quantized):
        phase = "clamp"
        weights = {name: q and _without(q, "clamp_only") for name, q in weights.items()}
    _check_methods(network)
    weight, weight_rules = _part("weight", weights)
    activation, activation_rules = _part("activation", sites)
    rules: Node = {}
    if sites:
        others = {layer for cell in cells for layer in cell.layers} - sites.keys()
        rules["elsewhere"] = {"name": "*", "activation": None}
        rules["qact"] = {"name": _globs(list(sites), others), "activation": {}}
    rules |= weight_rules | activation_rules
    return {"weight": weight, "activation": activation, "rules": rules}, phase


def _check_methods(network: Network) -> None:
    """Raise for the first quantizer that is of another method than the first one of its part."""
    for part in ("weight", "activation"):
        first = None
        for cell in network.cells.values():
            quantizer: Quantizer | None = getattr(cell, part)
            first = first or (quantizer and cell)
            if first and quantizer and quantizer.method != getattr(first, part).method:
                raise IniError(
                    f"[{cell.name}] has {quantizer.method} and [{first.name}] has "
                    f"{getattr(first, part).method} for {part}s. Accepted: one method for all of "
                    "them",
                    cell.place,
                )


def _without(quantizer: Quantizer, key: str) -> Quantizer:
    arguments = {k: v for k, v in quantizer.arguments.items() if k != key}
    return Quantizer(quantizer.method, arguments)


def _part(part: str, found: Quantizers) -> tuple[Node | None, Node]:
    """Return the common quantizer of a part, and the rules for what differs from it."""
    quantizers = {name: q for name, q in found.items() if q is not None}
    if not quantizers:
        return None, {}
    method = next(iter(quantizers.values())).method
    common = _common(quantizers.values())
    changes: dict[str, list[str]] = {}  # as JSON, to the names of their layers
    for name, quantizer in quantizers.items():
        for change in _changes({**PLAIN, **quantizer.arguments}, common):
            changes.setdefault(json.dumps(change), []).append(name)
    rules: Node = {}
    for text, names in changes.items():
        change = json.loads(text)
        ((key, value),) = change.items()
        word = f"{part}_{key}" if value is True else f"{part}_{key}_{value}"
        rule = unique_key(re.sub(r"\W", "_", word), rules)
        rules[rule] = {"name": one_or_list(names), part: change}
    floats = [name for name, q in found.items() if q is None]
    if floats:
        rules[f"float_{part}s"] = {"name": one_or_list(floats), part: None}
    return {"_target_": CLASSES[part, method], **common}, rules


def _common(quantizers: Collection[Quantizer]) -> Node:
    """Return the arguments that most of the quantizers have."""
    keys = {key for q in quantizers for key in q.arguments}
    values = [{**PLAIN, **q.arguments} for q in quantizers]
    bits, n_steps = _most_frequent([[v["bits"], v["n_steps"]] for v in values])
    common = {"bits": bits, "n_steps": n_steps}
    for key in sorted(keys - set(WIDTH), key=_rank):
        common[key] = _most_frequent([v.get(key) for v in values])
    return common


def _most_frequent(values: Sequence[Any]) -> Any:
    texts = Counter(json.dumps(value) for value in values)
    return json.loads(texts.most_common(1)[0][0])


def _changes(own: Node, common: Node) -> list[Node]:
    """Return what a quantizer has instead of the common arguments, one argument in each."""
    changes = [
        {key: own[key]} for key in common if key not in WIDTH and own.get(key) != common[key]
    ]
    if any(own[key] != common[key] for key in WIDTH):
        changes.insert(0, {key: own[key] for key in WIDTH if own[key] is not None})
    return changes


def _rank(key: str) -> tuple[int, str]:
    return (ORDER.index(key) if key in ORDER else len(ORDER)), key


def _globs(sites: list[str], others: Collection[str]) -> str | list[str]:
    """Return what names all sites of the file and no other layer."""
    if any(fnmatchcase(name, SITES) for name in others):
        return one_or_list(sites)
    rest = [name for name in sites if not fnmatchcase(name, SITES)]
    return one_or_list([SITES, *rest] if len(rest) < len(sites) else rest)


def one_or_list(names: Sequence[str]) -> str | list[str]:
    """Return the only name, or all of them."""
    return names[0] if len(names) == 1 else list(names)
