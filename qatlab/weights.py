"""Starts a network from weights that another run, or another program, has left; and leaves them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from qatlab.errors import CheckpointError
from qatlab.quant import Phase, Quantizer, set_phase
from qatlab.record import RESULT, read_json
from qatlab.training.checkpoint import LAST, load

EXTRA_STATE = "_extra_state"  # every quantizer has one, and nothing else here
SAFETENSORS = ".safetensors"
DRAWN = "_drawn"  # metadata: keys that the file leaves out, and that keep their initial values


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a network's state as a ``.safetensors`` file, which :func:`init_weights` reads."""
    state = model.state_dict()
    # Clones: the format has no tensors that share memory, as tied weights do.
    tensors = {k: v.cpu().contiguous().clone() for k, v in state.items() if isinstance(v, Tensor)}
    texts = {key: value for key, value in state.items() if isinstance(value, str)}
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(save(tensors, texts))
    os.replace(temporary, path)


def init_weights(model: nn.Module, source: str) -> str:
    """Copy weights into a converted network, by name.

    A float file fits a quantized network, and a quantized one a float network. What quantizers have
    learned is taken where it means the same: by those of the same method and number of steps (a
    clip value serves any number). What is left out is told, and those start anew. All quantizers
    are then in the phase of those for which the file has values, if these are in the same one.

    Args:
        model: the network, float or converted.
        source: a run's folder (its best checkpoint is taken), a checkpoint, a file of
            ``torch.save(model.state_dict())``, or a ``.safetensors`` file, whose metadata holds
            what is no tensor: ``relu1._extra_state`` is a text as ``quantize SatActivation 15``;
            ``_drawn`` names values, with spaces between them, that keep their initial ones.

    Returns:
        One sentence that says what was loaded and what was left out.

    Raises:
        CheckpointError: if the file is missing, damaged or made for another network.
    """
    path = _file_of(Path(source))
    try:
        state = _read(path)
    except CheckpointError as error:
        told = str(error).removeprefix(source)
        where = "" if told != str(error) else ": "
        raise CheckpointError(f"init_weights={source}{where}{told}") from error
    own = model.state_dict()
    drawn = set(state.pop(DRAWN, "").split())
    quantizers = {name + "." for name, m in model.named_modules() if isinstance(m, Quantizer)}
    foreign = {key.removesuffix(EXTRA_STATE) for key in _extra_states(state)}
    not_understood = (foreign | quantizers) - _understood(model, state)
    left_out = [k for k in state if _within(k, not_understood)]
    state = {key: value for key, value in state.items() if key not in left_out}
    missing = [k for k in own if k not in {*state, *drawn} and not _within(k, quantizers)]
    surplus = [k for k in state if k not in own]
    tensors = [k for k in own if isinstance(own[k], Tensor) and k in state]
    unlike = [
        f"{k} is {tuple(state[k].shape)} in the file and {tuple(own[k].shape)} in the model"
        for k in tensors
        if own[k].shape != state[k].shape
    ]
    unlike += [
        f"{k} is {str(state[k].dtype).removeprefix('torch.')} in the file"
        for k in tensors
        if own[k].is_floating_point() and not state[k].is_floating_point()
    ]
    if missing or surplus or unlike:
        parts = [*unlike[:3]]
        if missing:
            parts.append(f"it lacks {len(missing)} values of the model, first {missing[0]}")
        if surplus:
            parts.append(f"the model lacks {len(surplus)} values of it, first {surplus[0]}")
        raise CheckpointError(f"init_weights={source} is of another model: {'; '.join(parts)}")
    model.load_state_dict({**own, **state})
    phases = {_phase_of(state[key]) for key in _extra_states(state)}
    if len(phases) == 1:
        set_phase(model, *phases)
    text = f"weights from {path}"
    if drawn:
        text += f"; {len(drawn)} values keep their initial ones, first {min(drawn)}"
    if left_out:
        text += f"; {len(left_out)} values of quantizers left out, first {min(left_out)}"
    return text


def _understood(model: nn.Module, state: dict[str, Any]) -> set[str]:
    """Return the prefixes of the quantizers for which the file holds all they have learned."""
    found = set()
    for name, module in model.named_modules():
        theirs = state.get(f"{name}.{EXTRA_STATE}")
        if isinstance(module, Quantizer) and isinstance(theirs, str) and module.understands(theirs):
            own = module.state_dict(prefix=f"{name}.")
            if all(
                k in state and (not isinstance(v, Tensor) or v.shape == state[k].shape)
                for k, v in own.items()
            ):
                found.add(f"{name}.")
    return found


def _extra_states(state: dict[str, Any]) -> list[str]:
    return [key for key in state if key.endswith("." + EXTRA_STATE)]


def _phase_of(extra_state: str) -> Phase:
    return Phase(extra_state.split()[0])


def _within(key: str, prefixes: set[str]) -> bool:
    return any(key.startswith(prefix) for prefix in prefixes)


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / RESULT).exists():
        return path / str(read_json(path / RESULT)["checkpoint"])
    if not (path / "checkpoints" / LAST).exists():
        raise CheckpointError(
            f"init_weights={path} is a folder without checkpoints/{LAST}. Accepted: the folder of "
            "a run, a checkpoint, a file of weights."
        )
    return path / "checkpoints" / LAST


def _read(path: Path) -> dict[str, Any]:
    """Return the state dictionary of a network that a file holds.

    Raises:
        CheckpointError: if the file is missing or damaged, or holds none.
    """
    state = _safetensors(path) if path.suffix == SAFETENSORS else _model_state(load(path))
    if not any(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError("the file holds no weights")
    phases = [phase.value for phase in Phase]
    for key in _extra_states(state):
        value = state[key]
        if isinstance(value, str) and value.partition(" ")[0] not in phases:
            raise CheckpointError(
                f"{key} is {value!r} in it, which begins with none of {', '.join(phases)}"
            )
    return state


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            keys, texts = file.keys(), file.metadata() or {}
            state = {key: file.get_tensor(key) for key in keys}
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except Exception as error:  # a file of another kind can stop the reader in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or no safetensors file: {reason}") from error
    kept = [*_extra_states(texts), *(key for key in texts if key == DRAWN)]
    return {**state, **{key: texts[key] for key in kept}}


def _model_state(content: dict[str, Any]) -> dict[str, Any]:
    if "state_dict" not in content:
        return content
    # A Lightning checkpoint of Classifier, whose network is `model`.
    return {
        key.removeprefix("model."): value
        for key, value in content["state_dict"].items()
        if key.startswith("model.")
    }
