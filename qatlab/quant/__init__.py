"""Quantizers, and the conversion of a float network to one that has them."""

from qatlab.quant.calibration import start_quantizers
from qatlab.quant.collapse import CollapseWatch, warnings_of
from qatlab.quant.convert import float_table, quantize
from qatlab.quant.kernels import available as kernels_available
from qatlab.quant.layers import hold_weights, release_weights
from qatlab.quant.lsq import LsqActivation, LsqPlusActivation, LsqWeight
from qatlab.quant.memory import MODES, Memory
from qatlab.quant.not_finite import first_not_finite
from qatlab.quant.pact import DorefaActivation, DorefaWeight, PactActivation
from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import Quantizer, quantizers, set_phase
from qatlab.quant.rules import Rule
from qatlab.quant.sat import SatActivation, SatWeight
from qatlab.quant.table import LayerRecord, ModelTable

__all__ = [
    "MODES",
    "CollapseWatch",
    "DorefaActivation",
    "DorefaWeight",
    "LayerRecord",
    "LsqActivation",
    "LsqPlusActivation",
    "LsqWeight",
    "Memory",
    "ModelTable",
    "PactActivation",
    "Phase",
    "Quantizer",
    "Rule",
    "SatActivation",
    "SatWeight",
    "first_not_finite",
    "float_table",
    "hold_weights",
    "kernels_available",
    "quantize",
    "quantizers",
    "release_weights",
    "set_phase",
    "start_quantizers",
    "warnings_of",
]
