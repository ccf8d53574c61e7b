"""Quantizers, and the conversion of a float network to one that has them."""

from qatlab.quant.calibration import start_activations
from qatlab.quant.convert import float_table, quantize
from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import Quantizer, quantizers, set_phase
from qatlab.quant.rules import Rule
from qatlab.quant.sat import SatActivation, SatWeight
from qatlab.quant.table import LayerRecord, ModelTable

__all__ = [
    "LayerRecord",
    "ModelTable",
    "Phase",
    "Quantizer",
    "Rule",
    "SatActivation",
    "SatWeight",
    "float_table",
    "quantize",
    "quantizers",
    "set_phase",
    "start_activations",
]
