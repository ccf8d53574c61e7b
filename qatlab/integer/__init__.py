"""A quantized network as integers alone."""

from qatlab.integer.lowering import lower
from qatlab.integer.network import Codes, IntegerNetwork
from qatlab.integer.rescaling import RESCALES, with_rescale
from qatlab.integer.vectorised import Computed, compute
from qatlab.integer.weights import integer_weights

__all__ = [
    "RESCALES",
    "Codes",
    "Computed",
    "IntegerNetwork",
    "compute",
    "integer_weights",
    "lower",
    "with_rescale",
]
