"""Starts a network from weights that another run, or another program, has left; and leaves them."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from qatlab.errors import CheckpointError, ConfigError
from qatlab.quant import Phase, set_phase
from qatlab.quant.quantizer import LEARNED_BITS, LEARNING_BITS, Quantizer, phase_of
from qatlab.results.record import CHECKPOINTS, CONFIG, RESULT, find_run, read_result
from qatlab.run.weight_files import (
    DRAWN,
    EXTRA_STATE,
    NO_CHECKSUM,
    SHA256,
    find_weights,
    holds_module,
    read_weights,
    with_checksum,
)
from qatlab.run.weight_match import Match, counted, extra_states, match
from qatlab.system.files import write_bytes
from qatlab.training.loaded_values import fault_of, learned_names
from qatlab.training.torch_files import LAST, describe

PHASES = [phase.value for phase in Phase]


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a network's state as a ``.safetensors`` file, which :func:`init_weights` reads."""
    state = model.state_dict()
    # Clones: the format has no tensors that share memory, as tied weights do.
    tensors = {k: v.cpu().contiguous().clone() for k, v in state.items() if isinstance(v, Tensor)}
    texts = {key: value for key, value in state.items() if isinstance(value, str)}
    write_bytes(path, with_checksum(_sorted(save(tensors, {**texts, SHA256: NO_CHECKSUM}))))


def _sorted(content: bytes) -> bytes:
    """Return a ``.safetensors`` file with its header in order, so that equal ones are equal bytes.

    The library writes the metadata in another order each time.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header.pop("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, "little") + text + content[end:]


def init_weights(
    model: nn.Module,
    source: str,
    unused: Collection[str] = (),
    whole: bool = False,
    same_bits: bool = False,
) -> str:
    """Copy weights into a converted network, by name.

    A float file fits a quantized network, and a quantized one a float network. What quantizers have
    learned is taken where it means the same: by those of the same method and number of steps (a
    clip value serves any number). What is left out is reported, and starts anew. All quantizers
    are then in the phase of those for which the file has values, if these are in the same one.

    Of the dictionaries in a file, the one that fits is taken; of several that fit a plain one
    before an average. One prefix is taken off its names. A last layer of another number of outputs
    keeps its initial values. What is counted beside the weights, such as ``num_batches_tracked``,
    may be missing or surplus, and what is not a tensor is not looked at.

    Args:
        model: the network, float or converted.
        source: a run's folder (its best checkpoint is taken), a checkpoint of any program, a file
            of ``torch.save(model.state_dict())``, or a ``.safetensors`` file, whose metadata holds
            what is not a tensor: ``relu1._extra_state`` is a text as ``quantize SatActivation 15``;
            ``_drawn`` names values, with spaces between them, that keep their initial ones.
        unused: names of values of modules that the network never calls; the file may have them or
            not.
        same_bits: refuse a file of a phase in which quantizers had other bits.
        whole: refuse a file whose last layer has another number of outputs; for a network that is
            not trained any more.

    Returns:
        One sentence that says what was loaded and what was left out.

    Raises:
        CheckpointError: if the file is missing, damaged or made for another network, or has values
            that no network can compute with.
    """
    if not source.strip():
        raise CheckpointError(
            "init_weights has no value. Accepted: the folder of a run, a checkpoint, a file of "
            "weights, null."
        )
    path = _file_of(Path(source))
    try:
        content = read_weights(path)
    except CheckpointError as error:
        words = str(error).removeprefix(source)
        where = "" if words != str(error) else ": "
        raise CheckpointError(f"init_weights={source}{where}{words}") from error
    drawn = set(content.pop(DRAWN, "").split()) if isinstance(content, dict) else set()
    found = find_weights(content, model.state_dict())
    if not found or (holds_module(content) and not any(w.n_known for w in found)):
        raise CheckpointError(
            f"init_weights={source}: the file holds no weights, but {describe(content)}"
        )
    if whole:
        for weights in found:
            _take_learned_bits(model, weights.values, source)
    matches = [match(model, weights, drawn, unused) for weights in found]
    fitting = [m for m in matches if not (m.faults or (whole and m.heads))]
    if not fitting:
        nearest = max(matches, key=lambda m: m.weights.n_known)
        part = f" (its {nearest.weights.source})" if nearest.weights.source else ""
        raise CheckpointError(
            f"init_weights={source}{part} does not fit the model: {'; '.join(nearest.differences)}"
        )
    chosen = min(fitting, key=lambda m: bool(m.heads))  # the first of equals
    of_others = [*chosen.left_out, *_with_other_steps(model, chosen)]
    if same_bits and of_others:
        raise CheckpointError(
            f"{source} was saved in a phase with other bits (schedule.falling_bits): "
            f"{min(of_others)} does not fit. Finish the run with resume=, and test its best "
            "checkpoint."
        )
    others = [m.weights.source for m in fitting if m.weights.place != chosen.weights.place]
    of_a_run = (path.parent.parent / CONFIG).is_file() and path.parent.name == CHECKPOINTS
    messages = chosen.messages(of_a_run) + _copy(model, chosen, source)
    if others:
        messages.append(f"its {', '.join(others)} would fit as well")
    if drawn:
        messages.append(f"{len(drawn)} values keep their initial ones, first {min(drawn)}")
    if chosen.left_out:
        left_out = chosen.left_out
        messages.append(f"{len(left_out)} values of quantizers left out, first {min(left_out)}")
    return "; ".join([f"weights from {path}", *messages])


def _take_learned_bits(model: nn.Module, values: Mapping[str, Any], source: str) -> None:
    """Give quantizers the bits that the training of a file has learned.

    Raises:
        CheckpointError: for a file of a training that was still learning them.
    """
    modules = dict(model.named_modules())
    for name in extra_states(values):
        if LEARNING_BITS in values[name].split():
            raise CheckpointError(
                f"{source} was saved while bits were learned (callbacks=learned_bits). Finish the "
                "run with resume=, and test its best checkpoint."
            )
        module = modules.get(name.removesuffix(f".{EXTRA_STATE}"))
        if LEARNED_BITS in values[name].split() and isinstance(module, Quantizer):
            module.set_extra_state(values[name])  # that of another method changes nothing


def _with_other_steps(model: nn.Module, chosen: Match) -> list[str]:
    """Return the extra states of quantizers that worked with another number of steps."""
    ours = model.state_dict()
    return [
        name
        for name in extra_states(chosen.state)
        if chosen.state[name].split()[1:3] != ours[name].split()[1:3]
    ]


def _copy(model: nn.Module, chosen: Match, source: str) -> list[str]:
    """Copy the values into the network; return what was done to them.

    Raises:
        CheckpointError: for a value that no network can compute with, with its key in the file.
    """
    ours, state, messages = model.state_dict(), dict(chosen.state), []
    where = {name: f"init_weights={source}: {key}" for name, key in chosen.weights.keys.items()}
    for name in extra_states(chosen.weights.values):
        if (text := chosen.weights.values[name]).partition(" ")[0] not in PHASES:
            raise CheckpointError(
                f"{where[name]} is {text!r} in it, which begins with none of {', '.join(PHASES)}"
            )
    learned, types = learned_names(model), dict[str, int]()
    for name, value in state.items():
        if not (isinstance(value, Tensor) and ours[name].is_floating_point()):
            continue
        if value.dtype != ours[name].dtype:
            state[name] = value.to(ours[name].dtype)
            words = f"{str(value.dtype)[6:]} copied into {str(ours[name].dtype)[6:]}"
            types[words] = types.get(words, 0) + 1
        if fault := fault_of(name, state[name], learned):
            raise CheckpointError(f"{where[name]} {fault}")
    messages += [f"{count} value{'s' * (count > 1)} of {words}" for words, count in types.items()]
    negative = sorted(name for name in learned & {*state} if (state[name] < 0).any())
    messages += counted(negative, "of quantizers negative, whose absolute value is used")
    phases = {phase_of(state[name]) for name in extra_states(state)}
    for name in extra_states(state):  # with the steps that it has here
        state[name] = " ".join([phase_of(state[name]).value, *ours[name].split()[1:]])
    model.load_state_dict({**ours, **state})
    if len(phases) == 1:
        set_phase(model, *phases)
    return messages


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    path = find_run(path)
    if os.path.lexists(path / RESULT):
        try:
            return path / str(read_result(path)["checkpoint"])
        except ConfigError as error:
            raise CheckpointError(f"init_weights={path}: {error}") from error
    if not os.path.lexists(path / CHECKPOINTS / LAST):
        raise CheckpointError(
            f"init_weights={path} is a folder without checkpoints/{LAST}. Accepted: the folder of "
            "a run, a checkpoint, a file of weights."
        )
    return path / CHECKPOINTS / LAST
