"""Float networks, with names made for globs."""

from qatlab.models.layer_graph import LayerGraph
from qatlab.models.lenet import LeNet

__all__ = ["LayerGraph", "LeNet"]
