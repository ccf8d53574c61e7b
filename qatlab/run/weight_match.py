"""Compares the weights of a file with a network: what fits, what is left out, what starts anew."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qatlab.quant import Quantizer
from qatlab.run.weight_files import EXTRA_STATE, Weights
from qatlab.training.torch_files import describe

# What is counted beside the weights; it may be missing in a file, or surplus.
COUNTS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
AUXILIARY = re.compile("aux", re.IGNORECASE)  # heads that only a training had


@dataclass
class Match:
    """How a state dictionary of a file fits a network.

    Attributes:
        weights: the dictionary.
        state: what is copied, by the network's names.
        faults: why it does not fit; empty if it does.
        heads: last layers of another number of outputs, which keep their initial values: outputs
            in the file and in the network.
        left_out: values of quantizers in the file that mean nothing here.
        uncalled: values in the file, of modules that the network never calls.
        auxiliary: values in the file, of auxiliary heads that the network lacks.
        kept: values of the network, of modules that it never calls, which the file lacks.
    """

    weights: Weights
    state: dict[str, Any]
    faults: list[str]
    heads: dict[str, tuple[int, int]]
    left_out: list[str]
    uncalled: list[str]
    auxiliary: list[str]
    kept: list[str]

    @property
    def differences(self) -> list[str]:
        """All that differs, in words."""
        return self.faults + [
            f"{name or 'its layer'} has {theirs} outputs in the file and {ours} in the model"
            for name, (theirs, ours) in self.heads.items()
        ]

    def messages(self, of_a_run: bool) -> list[str]:
        """Return what was done to the values of the file, one part of a sentence each.

        Args:
            of_a_run: the file is a checkpoint of a run, all of which hold a network alike.
        """
        weights, messages = self.weights, []
        if weights.place and not of_a_run:
            messages.append(f"taken from its {weights.place!r}")
        if weights.prefix and not of_a_run:
            messages.append(f"{weights.prefix!r} removed from the names")
        if weights.added:
            messages.append(f"{weights.added!r} added to the names")
        messages += [f"{wrapper!r} removed from the names" for wrapper in weights.wrappers]
        messages += counted(weights.outside, "of other names left out")
        messages += counted(
            weights.pruned, "pruned: weight_orig * weight_mask, whose zeros train again"
        )
        messages += [
            f"{name or 'the layer'} keeps its initial values, as it has {theirs} outputs in the "
            f"file and {ours} here"
            for name, (theirs, ours) in self.heads.items()
        ]
        messages += counted(self.uncalled, "left out, of modules that the network never calls")
        messages += counted(self.kept, "not in the file, of modules that the network never calls")
        messages += counted(self.auxiliary, "left out, of auxiliary heads")
        return messages


def match(
    model: nn.Module, weights: Weights, drawn: Collection[str], unused: Collection[str]
) -> Match:
    """Compare the values of a file with those of a network.

    Args:
        model: the network, float or converted.
        weights: of the file.
        drawn: names of values that keep their initial ones.
        unused: names of values of modules that the network never calls.
    """
    ours = model.state_dict()
    state = {
        name: value
        for name, value in weights.values.items()
        if isinstance(value, Tensor) or name in ours or name.endswith("." + EXTRA_STATE)
    }
    quantizers = {name + "." for name, m in model.named_modules() if isinstance(m, Quantizer)}
    of_file = {key.removesuffix(EXTRA_STATE) for key in extra_states(state)}
    not_understood = (of_file | quantizers) - _understood(model, state)
    left_out = [k for k in state if _within(k, not_understood)]
    surplus = [k for k in state if k not in ours and k not in left_out]
    uncalled = [k for k in surplus if k in unused]
    auxiliary = [k for k in surplus if k not in unused and AUXILIARY.match(k)]
    surplus = [k for k in surplus if k not in uncalled and k not in auxiliary]
    state = {k: value for k, value in state.items() if k in ours and k not in left_out}
    missing = [k for k in ours if not (k in state or k in drawn or _within(k, quantizers))]
    shared = {_place(ours[k]) for k in state}  # of tied weights, safetensors keeps one
    missing = [k for k in missing if _place(ours[k]) not in shared]
    kept = [k for k in missing if k in unused]
    missing = [k for k in missing if k not in unused]
    missing, surplus = ([] if all(map(_is_count, names)) else names for names in (missing, surplus))
    unlike = [f"{k} is {_kind(v)} in the file" for k, v in state.items() if not _fits(ours[k], v)]
    resized = [
        k for k, v in state.items() if isinstance(ours[k], Tensor) and _shape(v) != ours[k].shape
    ]
    heads = {} if missing or surplus or unlike else _heads(model, state, resized)
    state = {k: v for k, v in state.items() if not _within(k, {f"{name}." for name in heads})}
    if not heads and not unlike:
        unlike = [
            f"{k} is {tuple(state[k].shape)} in the file and {tuple(ours[k].shape)} in the model"
            for k in resized
        ]
    faults = unlike[:3]
    if missing:
        faults.append(f"it lacks {_values(missing)} of the model, first {missing[0]}")
    if surplus:
        faults.append(f"the model lacks {_values(surplus)} of it, first {surplus[0]}")
    return Match(weights, state, faults, heads, left_out, uncalled, auxiliary, kept)


def extra_states(state: Mapping[str, Any]) -> list[str]:
    """Return the keys of what quantizers keep beside their tensors."""
    return [k for k, v in state.items() if k.endswith("." + EXTRA_STATE) and isinstance(v, str)]


def _heads(
    model: nn.Module, state: Mapping[str, Tensor], resized: Iterable[str]
) -> dict[str, tuple[int, int]]:
    """Return the layers whose number of outputs alone keeps a file from fitting; else nothing.

    If all else fits, no other layer reads what they make: it would have another number of inputs.

    Args:
        model: the network.
        state: of the file; all that the network has.
        resized: the values that have another shape in the network.
    """
    heads = {}
    for name, kind in (key.rpartition(".")[::2] for key in resized):
        layer = model.get_submodule(name)
        if not isinstance(layer, (nn.Conv2d, nn.Linear)) or kind not in ("weight", "bias"):
            return {}
        ours, theirs = layer.weight.shape, state[f"{name}.weight"].shape
        if len(theirs) != len(ours) or theirs[1:] != ours[1:]:
            return {}
        if kind == "bias" and state[f"{name}.bias"].shape != theirs[:1]:
            return {}
        heads[name] = (theirs[0], ours[0])
    return heads


def _understood(model: nn.Module, state: dict[str, Any]) -> set[str]:
    """Return the prefixes of the quantizers for which the file holds all they have learned."""
    found = set()
    for name, module in model.named_modules():
        theirs = state.get(f"{name}.{EXTRA_STATE}")
        if isinstance(module, Quantizer) and isinstance(theirs, str) and module.understands(theirs):
            expected = module.state_dict(prefix=f"{name}.")
            if all(
                k in state and (not isinstance(v, Tensor) or v.shape == _shape(state[k]))
                for k, v in expected.items()
            ):
                found.add(f"{name}.")
    return found


def _fits(target: Any, value: Any) -> bool:
    """Tell whether a value of a file can be copied into the network's, but for its shape."""
    if not isinstance(target, Tensor):
        return not isinstance(value, Tensor)
    if not isinstance(value, Tensor) or value.is_meta or not _is_dense(value):
        return False
    return value.is_floating_point() or not target.is_floating_point()


def _is_dense(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_nested


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return describe(value)
    if value.is_meta:
        return "without values (on the device meta)"
    if value.is_nested:
        return "a nested tensor"
    kind = value.dtype if _is_dense(value) else value.layout
    return str(kind).removeprefix("torch.")


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) and not value.is_nested else ()


def _place(value: Any) -> object:
    """Return what two tensors have in common if they are the same memory."""
    if not isinstance(value, Tensor) or value.is_meta or not value.numel():
        return object()
    return (value.data_ptr(), value.shape, value.stride())


def _is_count(key: str) -> bool:
    return key.rpartition(".")[2] in COUNTS


def _within(key: str, prefixes: Collection[str]) -> bool:
    return any(key.startswith(prefix) for prefix in prefixes)


def counted(names: Sequence[str], what: str) -> list[str]:
    """Return what happened to these values; nothing if there are none."""
    names = [name for name in names if not _is_count(name)]
    return [f"{_values(names)} {what}, first {names[0]}"] if names else []


def _values(names: Sequence[str]) -> str:
    return f"{len(names)} {'value' if len(names) == 1 else 'values'}"
