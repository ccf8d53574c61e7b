"""What the ``layers.json`` of a run says about bits, method and costs of its network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qatlab.errors import ConfigError
from qatlab.results import limits, values
from qatlab.results.limits import LONGEST_NAME

FLOAT = "float"
MIXED_BITS = "mixed"  # no width is that of half of the layers
FLOAT_BITS = 32
NAMES = {"Sat": "SAT", "Lsq": "LSQ", "LsqPlus": "LSQ+", "Pact": "PACT", "Dorefa": "DoReFa"}
# Methods that take the weight quantizer of another one.
MIXED = {("LSQ", "LSQ+"): "LSQ+", ("DoReFa", "PACT"): "PACT"}


@dataclass(frozen=True)
class Layer:
    """A weight layer or a site; ``bits`` is None where the tensor stays float."""

    name: str
    type: str
    part: str
    bits: int | None
    parameters: int
    macs: int
    input_bits: int | None
    method: str


def read_costs(file: Path) -> dict[str, Any]:
    """Return layers and costs of a ``layers.json``; nothing where there is none."""
    if not os.path.lexists(file):
        return {}
    content = limits.read_json(file)
    try:
        layers = tuple(map(_layer, values.rows(content, "layers", limits.MOST_LAYERS)))
        # Absent in runs of older versions.
        costs = ("size_bytes", "macs", "bit_operations")
        return {"layers": layers, **{key: values.whole_or_none(content, key) for key in costs}}
    except (KeyError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ConfigError(f"{file} does not hold the layers of a run: {reason}") from error


def _layer(row: dict[str, Any]) -> Layer:
    bits = values.whole_or_none(row, "bits")
    if bits is not None and bits > FLOAT_BITS:
        raise ValueError(f"bits is {bits}, more than {FLOAT_BITS}")
    return Layer(
        name=values.text(row, "name", LONGEST_NAME),
        type=values.text(row, "type", LONGEST_NAME),
        part=values.text(row, "part", LONGEST_NAME),
        bits=bits,
        parameters=values.whole(row, "parameters"),
        macs=values.whole_or_none(row, "macs") or 0,
        input_bits=values.whole_or_none(row, "input_bits"),
        method=values.text_or_empty(values.mapping(row, "quantizer"), "method", LONGEST_NAME),
    )


def facts_of(
    layers: Sequence[Layer], size: int | None, costs: dict[str, Any], quantized: bool = True
) -> dict[str, Any]:
    """Return bits, method and costs of the tested network.

    A network that is tested before its quantize phase is a float one, whatever bits it would have
    had, so that a clamped network is not reported as a 4-bit one.
    """
    facts = {"tested_bytes": size, **{key: costs.get(key) for key in ("macs", "bit_operations")}}
    if not quantized:
        macs = costs.get("macs")
        operations = None if macs is None else _float_operations(layers, macs)
        bits = {"weight_bits": FLOAT, "activation_bits": FLOAT}
        return {**facts, **bits, "method": FLOAT, "bit_operations": operations}
    if not layers:
        return facts
    weights = [layer for layer in layers if layer.part == "weight"]
    sites = [layer for layer in layers if layer.part == "activation"]
    inner = weights[1:-1] or weights
    weight, site = (_most_common(x.method for x in group if x.bits) for group in (inner, sites))
    # What is added or pooled has more bits as a rule, and costs no multiplications.
    read = [layer.input_bits for layer in inner if layer.input_bits] if sites else []
    return {
        **facts,
        "weight_bits": _bits([layer.bits for layer in inner]),
        "activation_bits": _bits(read or [site.bits for site in sites]) or FLOAT,
        "method": _method(weight or "", site or ""),
    }


def _bits(widths: Sequence[int | None]) -> str:
    bits = [FLOAT if width is None else str(width) for width in widths]
    most = _most_common(bits)
    return MIXED_BITS if most is not None and 2 * bits.count(most) < len(bits) else most or ""


def _most_common(values: Iterable[str]) -> str | None:
    counts = Counter(values).most_common(1)
    return counts[0][0] if counts else None


def _method(weight: str, site: str) -> str:
    stems = weight.removesuffix("Weight"), site.removesuffix("Activation")
    first, second = (NAMES.get(stem, stem) for stem in stems)
    names = dict.fromkeys(name for name in (first, second) if name)
    return MIXED.get((first, second)) or "/".join(names) or FLOAT


def _float_operations(layers: Sequence[Layer], macs: int) -> int:
    """Return the bit operations of a float network: only the first layer reads bytes."""
    weights = [layer for layer in layers if layer.part == "weight"]
    first = weights[0].macs * (FLOAT_BITS - (weights[0].input_bits or FLOAT_BITS)) if weights else 0
    return (macs * FLOAT_BITS - first) * FLOAT_BITS
