"""Tensor functions compiled into one pass over memory where that pays: on large CPU tensors.

Run operation by operation, the formula of a quantizer reads and writes memory ten times and more;
compiled, as often as a ReLU. Without a C++ compiler the same functions run uncompiled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

SMALLEST = 2**14  # elements; below, the calls cost more than the passes
log = logging.getLogger(__name__)
# It finds no CUDA where there is none, and says so when the compiler is loaded.
logging.getLogger("torch.utils.cpp_extension").addFilter(lambda r: "CUDA" not in r.getMessage())


class Kernel:
    """A function of one-dimensional tensors, scalar tensors and switches.

    It is compiled at the first call with a large float32 tensor, once for all sizes.
    """

    available = True

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        """The compiled function; made when it is needed, as loading the compiler takes seconds."""
        return torch.compile(self.function, dynamic=True)

    def __call__(self, *args: Tensor | bool) -> Any:
        """Return ``function(*args)``; the first argument decides whether compiled."""
        first = args[0]
        assert isinstance(first, Tensor)
        small = first.numel() < SMALLEST or first.dtype is not torch.float32
        if small or not Kernel.available:
            return self.function(*args)
        try:
            return self.compiled(*args)
        except Exception as error:  # the compiler's own, of many kinds: it only costs time
            Kernel.available = False
            words = str(error).strip().splitlines() or [type(error).__name__]
            log.warning("quantizers run uncompiled, and slower: %s", words[0])
            return self.function(*args)
