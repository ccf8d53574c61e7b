"""Quantization-aware training of image networks with PyTorch Lightning and Hydra.

From Python: :func:`quantize` a network of one's own, ask for the :func:`obstacles` to its export,
:func:`load_quantized` a run, take its :func:`integer_weights`, or all its numbers by
:func:`load_integers`; :func:`load_runs` compares many. They are imported when they are asked for:
commands that only read files then start in a moment.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qatlab.deploy.integer.weights import integer_weights
    from qatlab.deploy.obstacles import obstacles
    from qatlab.report.frame import load_runs
    from qatlab.run.loading import load_integers, load_quantized
    from qatlab.run.quantized import quantize

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "integer_weights",
    "load_integers",
    "load_quantized",
    "load_runs",
    "obstacles",
    "quantize",
]
_PLACES = {
    "integer_weights": "qatlab.deploy.integer.weights",
    "load_integers": "qatlab.run.loading",
    "load_quantized": "qatlab.run.loading",
    "load_runs": "qatlab.report.frame",
    "obstacles": "qatlab.deploy.obstacles",
    "quantize": "qatlab.run.quantized",
}


def __getattr__(name: str) -> Any:
    """Import a public function."""
    if name not in _PLACES:
        raise AttributeError(f"module 'qatlab' has no attribute '{name}'")
    return getattr(import_module(_PLACES[name]), name)
