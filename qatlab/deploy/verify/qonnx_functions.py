"""QONNX's operators as functions of ONNX's own, so that onnxruntime computes such files.

Source: Pappalardo et al. 2022, arXiv:2206.07527, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import parser

from qatlab.deploy.onnx.qonnx import DOMAIN

# @signed and @narrow are attributes of the node, 0 or 1; arithmetic keeps them free of branches.
QUANT = """
Quant <signed, narrow, rounding_mode> (x, scale, zero, bits) => (y) {
    one = Constant <value_float = 1.0> ()
    two = Constant <value_float = 2.0> ()
    signed_number = Constant <value_int: int = @signed> ()
    narrow_number = Constant <value_int: int = @narrow> ()
    signed_one = Cast <to = 1> (signed_number)
    narrow_one = Cast <to = 1> (narrow_number)
    bits_of_size = Sub (bits, signed_one)
    levels = Pow (two, bits_of_size)
    signed_size = Sub (levels, narrow_one)
    size_below = Mul (signed_one, signed_size)
    low = Neg (size_below)
    unsigned_one = Sub (one, signed_one)
    unsigned_narrow = Mul (unsigned_one, narrow_one)
    largest = Sub (levels, one)
    high = Sub (largest, unsigned_narrow)
    steps = Div (x, scale)
    moved = Add (steps, zero)
    rounded = Round (moved)
    raised = Max (rounded, low)
    clipped = Min (raised, high)
    code = Sub (clipped, zero)
    y = Mul (code, scale)
}
"""
BIPOLAR = """
BipolarQuant (x, scale) => (y) {
    null = Constant <value_float = 0.0> ()
    below = Less (x, null)
    negative = Neg (scale)
    y = Where (below, negative, scale)
}
"""


def with_functions(file: onnx.ModelProto, outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """Return a copy of a file that defines QONNX's operators where it has some.

    Args:
        file: any ONNX file.
        outputs: names of tensors that become outputs, too.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(file)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    opsets = {entry.domain: entry.version for entry in file.opset_import}
    if DOMAIN in opsets:
        head = f'<opset_import: ["": {opsets[""]}], domain: "{DOMAIN}">'
        copy.functions.extend(parser.parse_function(head + text) for text in (QUANT, BIPOLAR))
    return copy
