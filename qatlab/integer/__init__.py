"""A quantized network as integers alone."""

from qatlab.integer.lowering import lower
from qatlab.integer.network import IntegerNetwork
from qatlab.integer.vectorised import Computed, compute

__all__ = ["Computed", "IntegerNetwork", "compute", "lower"]
