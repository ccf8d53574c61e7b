"""Starts a network from weights that another run, or another program, has left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qatlab.errors import CheckpointError
from qatlab.quant import Quantizer
from qatlab.record import read_json
from qatlab.training.checkpoint import LAST, load

EXTRA_STATE = "_extra_state"  # every quantizer has one, and nothing else here


def init_weights(model: nn.Module, source: str) -> str:
    """Copy weights into a converted network, by name.

    A float file fits a quantized network, and a quantized one a float network. What quantizers have
    learned is taken where it means the same: by those of the same method and number of steps (a
    clip value serves any number). What is left out is told, and those start anew.

    Args:
        model: the network, float or converted.
        source: a run's folder (its best checkpoint is taken), a checkpoint, or a file of
            ``torch.save(model.state_dict())``.

    Returns:
        One sentence that says what was loaded and what was left out.

    Raises:
        CheckpointError: if the file is missing, damaged or made for another network.
    """
    path = _file_of(Path(source))
    try:
        state = _model_state(load(path))
    except CheckpointError as error:
        told = str(error).removeprefix(source)
        where = "" if told != str(error) else ": "
        raise CheckpointError(f"init_weights={source}{where}{told}") from error
    own = model.state_dict()
    quantizers = {name + "." for name, m in model.named_modules() if isinstance(m, Quantizer)}
    foreign = {key.removesuffix(EXTRA_STATE) for key in state if key.endswith("." + EXTRA_STATE)}
    left_out = [k for k in state if _within(k, foreign - _understood(model, state))]
    state = {key: value for key, value in state.items() if key not in left_out}
    missing = [k for k in own if k not in state and not _within(k, quantizers)]
    surplus = [k for k in state if k not in own]
    unlike = [
        f"{k} is {tuple(state[k].shape)} in the file and {tuple(own[k].shape)} in the model"
        for k in own
        if isinstance(own[k], Tensor) and k in state and own[k].shape != state[k].shape
    ]
    if missing or surplus or unlike:
        parts = [*unlike[:3]]
        if missing:
            parts.append(f"it lacks {len(missing)} values of the model, first {missing[0]}")
        if surplus:
            parts.append(f"the model lacks {len(surplus)} values of it, first {surplus[0]}")
        raise CheckpointError(f"init_weights={source} is of another model: {'; '.join(parts)}")
    model.load_state_dict({**own, **state})
    text = f"weights from {path}"
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


def _within(key: str, prefixes: set[str]) -> bool:
    return any(key.startswith(prefix) for prefix in prefixes)


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / "result.json").exists():
        return path / str(read_json(path / "result.json")["checkpoint"])
    if not (path / "checkpoints" / LAST).exists():
        raise CheckpointError(
            f"init_weights={path} is a folder without checkpoints/{LAST}. Accepted: the folder of "
            "a run, a checkpoint, a file of weights."
        )
    return path / "checkpoints" / LAST


def _model_state(content: dict[str, Any]) -> dict[str, Any]:
    if "state_dict" not in content:
        state = content
    else:  # a Lightning checkpoint of Classifier, whose network is `model`
        state = {
            key.removeprefix("model."): value
            for key, value in content["state_dict"].items()
            if key.startswith("model.")
        }
    if not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError("the file holds no weights")
    return state
