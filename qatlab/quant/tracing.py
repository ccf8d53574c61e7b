"""What all who trace networks here have in common."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

# Functions of ``+=`` and its like.
ASSIGNMENTS: tuple[Callable[[Any, Any], Any], ...] = (
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow),
)


class InPlaceTracer(fx.Tracer):
    """A tracer that sees that ``+=`` changes a tensor; torch.fx itself takes it for a sum."""

    proxy_buffer_attributes = True  # what is computed from a buffer is computed at each pass

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for the result of a node."""
        return _Assigned(node, self)


class _Assigned(fx.Proxy):
    """Stands for a tensor."""


def _assigns(function: Callable[[Any, Any], Any]) -> Any:
    name = function.__name__.removeprefix("i")  # as torch.fx would call it

    def changed(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {}, name)

    return changed


for _function in ASSIGNMENTS:
    setattr(_Assigned, f"__{_function.__name__}__", _assigns(_function))
