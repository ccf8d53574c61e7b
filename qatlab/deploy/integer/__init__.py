"""A quantized network as integers alone."""

from qatlab.deploy.integer.lowering import lower
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import Codes
from qatlab.deploy.integer.rescaling import RESCALES, with_rescale
from qatlab.deploy.integer.vectorised import Computed, compute
from qatlab.deploy.integer.weights import integer_weights

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
