"""The builder of each type of layer; ``conf/model/layer_graph.yaml`` explains their keys."""

from __future__ import annotations

from collections.abc import Callable

from qatlab.models.graph_layers import activations, arithmetic, pools, shapes, weights
from qatlab.models.graph_layers.place import Layer

BUILDERS: tuple[Callable[..., Layer], ...] = (
    *(weights.conv, weights.deconv, weights.linear),
    *(pools.max_pool, pools.avg_pool, pools.fractional_max_pool, pools.max_unpool),
    *(arithmetic.batch_norm, arithmetic.lrn),
    *(activations.relu, activations.saturation, activations.sigmoid, activations.tanh),
    *(activations.tanh_lecun, activations.softplus, activations.silu),
    *(activations.softmax, activations.dropout),
    *(arithmetic.elementwise, arithmetic.scale, arithmetic.normalize, arithmetic.threshold),
    *(shapes.concat, shapes.identity, shapes.padding, shapes.resize),
    *(shapes.reshape, shapes.transpose),
)
TYPES = {builder.__name__: builder for builder in BUILDERS}
