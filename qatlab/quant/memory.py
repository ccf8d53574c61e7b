"""What a training step keeps for its backward pass, and what it makes once more instead.

Autograd keeps the inputs of every convolution and linear layer. Behind a quantizer they need not be
kept: they can be made again from what its own backward pass needs anyway, or from their integer
codes. Inside of :class:`Memory` whatever an operation wants to save is looked up here, and so is a
view of it, such as the ``weight.t()`` of a linear layer; it applies to what the kernels of
:mod:`qatlab.quant.dispatch` have made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

Rebuild = Callable[[], Tensor]
MODES = {
    "keep": "quantized activations are kept, as autograd does; quantized weights are made again",
    "recompute": "quantized activations are made again from what was quantized",
    "compact": "the same, and sums of activations are made again from codes of 1 to 8 bits",
}


@dataclass
class _Entry:
    """How the tensor in a storage can be made again, as long as it is unchanged."""

    storage: StorageWeakRef  # as long as it lives, no other storage gets its address
    layout: tuple[Any, ...]
    whole: bool  # whether the tensor fills the storage, so that all others in it are views of it
    rebuild: Rebuild
    encode: Callable[[Tensor], Rebuild | None] | None  # values on the same grid into codes


class Memory:
    """Context of a forward pass whose saved tensors are made again in the backward pass.

    Args:
        mode: one of :data:`MODES`.
    """

    active: Memory | None = None

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._entries: dict[int, _Entry] = {}
        self._hooks: saved_tensors_hooks | None = None
        self._outer: Memory | None = None

    def __enter__(self) -> Memory:
        self._outer, Memory.active = Memory.active, self
        self._hooks = saved_tensors_hooks(self._pack, _unpack)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._hooks is not None
        self._hooks.__exit__(*error)
        Memory.active = self._outer
        self._entries.clear()

    def makes_again(self, x: Tensor) -> bool:
        """Tell whether what a quantizer makes of ``x`` is made again in the backward pass."""
        return self.mode != "keep" or x.is_leaf

    def quantized(
        self,
        y: Tensor,
        x: Tensor,
        rebuild: Rebuild,
        encode: Callable[[Tensor], Rebuild | None],
    ) -> None:
        """Note what a quantizer has made of ``x``.

        Args:
            y: its output.
            x: its input, or that of the batch norm before it.
            rebuild: makes ``y`` again; it holds ``x``, but not ``y``.
            encode: turns values on the same grid into codes, and returns what decodes them; None
                for more levels than codes have.
        """
        if not self.makes_again(x):
            return
        again: Rebuild | None = rebuild
        if self.mode == "compact" and self._find(x) is not None:
            again = encode(y)  # x is not kept itself
        if again is not None:
            self._add(y, again, encode)

    def copied(self, y: Tensor, x: Tensor) -> None:
        """Note that all values of ``y`` are values of ``x``, as a pooling layer's are."""
        entry = self._find(x) if self.mode == "compact" else None
        if entry is not None and entry.encode is not None:
            again = entry.encode(y)
            if again is not None:
                self._add(y, again, entry.encode)

    def _add(self, y: Tensor, rebuild: Rebuild, encode: Any) -> None:
        storage = y.untyped_storage()
        self._entries[storage._cdata] = _Entry(
            StorageWeakRef(storage),  # type: ignore[no-untyped-call]
            _layout(y),
            storage.nbytes() == y.numel() * y.element_size(),
            rebuild,
            encode,
        )

    def _find(self, x: Tensor) -> _Entry | None:
        entry = self._entries.get(x.untyped_storage()._cdata)
        if entry is None or entry.storage.expired():  # type: ignore[no-untyped-call]
            return None
        layout = _layout(x)
        # The same values, or a view of them; views have the version of what they show.
        same = entry.layout[:2] == layout[:2] if entry.whole else entry.layout == layout
        return entry if same else None

    def rebuild(self, x: Tensor) -> Rebuild | None:
        """Return what makes ``x`` again in new memory; None where nothing was noted.

        Args:
            x: a tensor that was noted, or a view of one.
        """
        entry = self._find(x)
        if entry is None or entry.layout == _layout(x):
            return None if entry is None else entry.rebuild
        rebuild, (_, _, _, shape, stride) = entry.rebuild, entry.layout
        _, _, offset, view_shape, view_stride = _layout(x)

        def viewed() -> Tensor:
            whole = rebuild()
            if whole.stride() != stride:  # a sum may be laid out like either of its parts
                whole = torch.empty_strided(
                    shape, stride, dtype=whole.dtype, device=whole.device
                ).copy_(whole)
            return whole.as_strided(view_shape, view_stride, offset)

        return viewed

    def _pack(self, x: Tensor) -> tuple[Tensor, int] | Rebuild:
        rebuild = self.rebuild(x)
        return (x, x._version) if rebuild is None else rebuild

    def added(self, a: Tensor, b: Tensor, in_place: bool) -> Tensor:
        """Return ``a + b``, and note how to make it again."""
        first, second = (self.rebuild(x) if self.mode == "compact" else None for x in (a, b))
        result = a.add_(b) if in_place else a + b
        if first is not None and second is not None:
            over = result.dtype == a.dtype and result.shape == a.shape
            self._add(result, lambda: _sum(first(), second(), over), None)
        return result

    def masked(self, y: Tensor, x: Tensor, mask: Tensor) -> None:
        """Note that ``y`` is ``x * mask``, the quantized weights of a layer that are not pruned."""
        rebuild = self.rebuild(x)
        if rebuild is not None:
            held = mask.detach()
            self._add(y, lambda: rebuild() * held, None)


def add_inplace(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a + b``, written over ``a``, the output of a quantizer that nobody else reads."""
    in_place = a.dtype == b.dtype and a.shape == b.shape
    if Memory.active is not None:
        return Memory.active.added(a, b, in_place)
    return a.add_(b) if in_place else a + b


def add(a: Any, b: Any) -> Any:
    """Return ``a + b``, tensors or numbers."""
    if Memory.active is not None and isinstance(a, Tensor) and isinstance(b, Tensor):
        return Memory.active.added(a, b, in_place=False)
    return a + b


def note_copies(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Note, as a forward hook, that a module hands on values of its input."""
    if Memory.active is not None:
        Memory.active.copied(output, inputs[0])


def _sum(a: Tensor, b: Tensor, over: bool) -> Tensor:
    return a.add_(b) if over else a + b


def _layout(x: Tensor) -> tuple[Any, ...]:
    return x._version, x.dtype, x.storage_offset(), tuple(x.shape), x.stride()


def _unpack(saved: tuple[Tensor, int] | Rebuild) -> Tensor:
    if callable(saved):
        return saved()
    x, version = saved
    if x._version != version:  # autograd itself does not look where there are hooks
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: a tensor of shape {tuple(x.shape)} that is kept for the backward pass"
        )
    return x
