"""The types of layers that a :class:`~qatlab.models.LayerGraph` is made of."""

from qatlab.models.graph_layers.fillers import Fill, filler
from qatlab.models.graph_layers.kinds import chosen
from qatlab.models.graph_layers.place import Layer, Place, Shape, Source, sizes
from qatlab.models.graph_layers.types import TYPES

__all__ = ["TYPES", "Fill", "Layer", "Place", "Shape", "Source", "chosen", "filler", "sizes"]
