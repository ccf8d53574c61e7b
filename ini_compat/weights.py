"""N2D2's parameter files (``.syntxt``) as a state dict in a safetensors file, and back."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ini_compat.errors import IniError, Place
from ini_compat.network import Cell, Network, ParameterFile

Array = NDArray[Any]
SUFFIX = ".syntxt"
COPIES = ("_quant_weights", "_quant_biases", "_quant_weights_quant")  # of the last forward pass
LARGEST_FILE = 1 << 32  # bytes
EXTRA_STATE = "_extra_state"
DIGITS, DIGITS_OF_QUANTIZED = 6, 10


class State:
    """Tensors by key, and the texts that quantizers keep beside them.

    Attributes:
        tensors: float32, or bool for ``initialized``, int64 for ``num_batches_tracked``.
        texts: extra states of quantizers, such as ``quantize SatActivation 15``.
        notices: what was not found as expected.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Array] = {}
        self.texts: dict[str, str] = {}
        self.notices: list[str] = []


def read_folder(network: Network, folder: Path, phase: str) -> State:
    """Read the weight files of a network.

    Args:
        network: without problems.
        folder: that holds the files.
        phase: ``clamp`` or ``quantize``, which weight quantizers are left in.

    Raises:
        IniError: naming files that are missing, of a wrong size or no numbers.
    """
    if not folder.is_dir():
        raise IniError(f"{folder} is no folder of weight files")
    state = State()
    missing: list[str] = []
    known: set[str] = set()
    for cell in network.cells.values():
        known |= {file.stem for file in cell.files} | {cell.name, safe_name(cell)}
        _read_cell(cell, folder, state, missing)
        _quantizer_texts(cell, state, phase)
    if missing:
        raise IniError(
            f"{folder} lacks {len(missing)} of the network's files: {', '.join(missing[:8])}"
            + (", ..." if len(missing) > 8 else "")
        )
    surplus = [
        path.name
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        if path.stem not in known and not path.stem.endswith(COPIES)
    ]
    state.notices += [f"{folder / name} belongs to no cell of the network" for name in surplus]
    return state


def of_onnx(network: Network) -> State:
    """Return the weights that came with an ONNX file."""
    state = State()
    state.tensors = dict(network.weights)
    for cell in network.cells.values():
        if cell.type in ("BatchNorm", "BatchNormalization") and cell.files:
            layer = cell.files[0].key.rpartition(".")[0]
            state.tensors[f"{layer}.num_batches_tracked"] = np.zeros((), np.int64)
    return state


def safe_name(cell: Cell) -> str:
    """Return the name that the cell's files begin with."""
    return cell.files[0].stem.rpartition("_")[0] if cell.files else cell.name


def _read_cell(cell: Cell, folder: Path, state: State, missing: list[str]) -> None:
    files = cell.files
    if files and not (folder / f"{files[0].stem}{SUFFIX}").exists():
        single = folder / f"{files[0].stem.removesuffix('_weights')}{SUFFIX}"
        if files[0].kind != "vector" and single.exists():
            files = files[2:] if _read_interleaved(cell, single, state) else files[1:]
    for file in files:
        path = folder / f"{file.stem}{SUFFIX}"
        if path.exists():
            state.tensors[file.key] = _shaped(file, _numbers(path, file.count), path)
        elif file.optional:
            _start(cell, file, state)
        else:
            missing.append(path.name)
    if cell.type in ("BatchNorm", "BatchNormalization") and files:
        layer = files[0].key.rpartition(".")[0]
        state.tensors[f"{layer}.num_batches_tracked"] = np.zeros((), np.int64)


def _start(cell: Cell, file: ParameterFile, state: State) -> None:
    """Give a value that has no file what N2D2 starts it with."""
    if not file.quantizer:
        state.tensors[file.key] = np.ones(file.shape, np.float32)
        state.notices.append(f"there is no {file.stem}{SUFFIX}: {file.key} is 1")
        return
    quantizer = cell.activation if file.key.startswith(f"{cell.site}.") else cell.weight
    start = None if quantizer is None else quantizer.arguments.get("alpha")
    if start is not None:
        state.tensors[file.key] = np.array(start, np.float32)
        state.notices.append(f"there is no {file.stem}{SUFFIX}: {file.key} is {start:g}")
    else:
        state.notices.append(f"there is no {file.stem}{SUFFIX}: {file.key} starts from the data")


def _quantizer_texts(cell: Cell, state: State, phase: str) -> None:
    for file in cell.files:
        owner = file.key.rpartition(".")[0]
        if file.quantizer and file.key in state.tensors:
            state.texts[f"{owner}.{EXTRA_STATE}"] = file.quantizer
            state.tensors[f"{owner}.initialized"] = np.array(True)
        if file.key.endswith(".weight") and cell.weight and cell.weight.method == "SAT":
            text = f"{phase} SatWeight {cell.weight.n_steps}"
            state.texts[f"{owner}.weight_quantizer.{EXTRA_STATE}"] = text


def _read_interleaved(cell: Cell, path: Path, state: State) -> bool:
    """Read one file with weights and bias of each output in turn; tell whether it had biases."""
    weights = cell.files[0]
    biases = next((f for f in cell.files if f.stem.endswith("_biases")), None)
    outputs = weights.shape[0]
    numbers = _numbers(path, weights.count + (outputs if biases else 0))
    if biases:
        if weights.count % outputs:
            raise IniError(f"{path} cannot be split: its outputs have unlike numbers of weights")
        rows = numbers.reshape(outputs, -1)
        state.tensors[biases.key] = rows[:, -1].copy()
        numbers = rows[:, :-1].reshape(-1)
    state.tensors[weights.key] = _shaped(weights, numbers, path)
    return biases is not None


def _numbers(path: Path, count: int) -> NDArray[np.float32]:
    if not path.is_file():
        raise IniError(f"{path} is no file")
    if path.stat().st_size > LARGEST_FILE:
        raise IniError(f"{path} has more than {LARGEST_FILE:,} bytes")
    try:
        words = path.read_bytes().split()
        numbers = np.array(words, dtype="S32").astype(np.float64)
    except (ValueError, OSError) as error:
        raise IniError(f"{path} holds something that is no number: {error}") from error
    if len(numbers) != count:
        raise IniError(f"{path} holds {len(numbers):,} numbers. Accepted: {count:,}")
    if not np.isfinite(numbers).all():
        first = int(np.argmin(np.isfinite(numbers)))
        line = path.read_bytes().count(b"\n", 0, _offset(path, first)) + 1
        raise IniError(f"{words[first].decode()} is not finite", Place(str(path), line))
    return numbers.astype(np.float32)


def _offset(path: Path, index: int) -> int:
    """Return where the word of that index ends in a file."""
    content = path.read_bytes()
    end = 0
    for word in content.split()[: index + 1]:
        end = content.index(word, end) + len(word)
    return end


def _shaped(file: ParameterFile, numbers: NDArray[np.float32], path: Path) -> Array:
    """Put the numbers of a file into the layout of the state dict."""
    if file.kind in ("vector", "scalar"):
        return numbers.reshape(file.shape)
    if file.kind == "linear":
        outputs, inputs = file.shape
        return (
            numbers.reshape(inputs, outputs).T.copy()
            if file.swapped
            else (numbers.reshape(outputs, inputs))
        )
    outputs, channels, height, width = _file_shape(file)
    if file.mapping is not None:
        if file.swapped:
            raise IniError(f"{path}: the format HWCO is not read where connections are missing")
        result = np.zeros((outputs, channels, height, width), np.float32)
        result[_connected(file)] = numbers.reshape(-1, height, width)
    elif file.swapped:
        result = numbers.reshape(height, width, channels, outputs).transpose(3, 2, 0, 1).copy()
    else:
        result = numbers.reshape(outputs, channels, height, width)
    return _to_transposed(result, file) if file.kind == "deconv" else result


def _file_shape(file: ParameterFile) -> tuple[int, int, int, int]:
    """Return outputs, input channels of each, height and width, as the file orders them."""
    if file.kind == "conv":
        outputs, channels, height, width = file.shape
        return outputs, channels, height, width
    channels, outputs, height, width = file.shape
    groups = file.groups
    return outputs * groups, channels // groups, height, width


def _connected(file: ParameterFile) -> Array:
    assert file.mapping is not None
    return np.array([[bit == "1" for bit in row] for row in file.mapping]).T


def _to_transposed(weights: Array, file: ParameterFile) -> Array:
    """Turn (outputs, channels of the group, ...) into torch's (channels, outputs of the group)."""
    groups = file.groups
    outputs, channels, height, width = weights.shape
    split = weights.reshape(groups, outputs // groups, channels, height, width)
    return split.transpose(0, 2, 1, 3, 4).reshape(file.shape).copy()


def _from_transposed(weights: Array, file: ParameterFile) -> Array:
    groups = file.groups
    channels, outputs, height, width = weights.shape
    split = weights.reshape(groups, channels // groups, outputs, height, width)
    return split.transpose(0, 2, 1, 3, 4).reshape(_file_shape(file)).copy()


# -- safetensors -------------------------------------------------------------------------------


def write_state(state: State, path: Path) -> None:
    """Write a safetensors file under a temporary name, and rename it."""
    tensors = {key: np.asarray(value, order="C") for key, value in state.tensors.items()}
    _replace(path, save(tensors, metadata=state.texts))


def read_state(path: Path) -> dict[str, Array]:
    """Read the tensors of a safetensors file.

    Raises:
        IniError: if it is missing, damaged or of another kind.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except FileNotFoundError:
        raise IniError(f"{path} does not exist") from None
    except (SafetensorError, OSError, TypeError, ValueError, struct.error) as error:
        raise IniError(f"{path} is damaged or no safetensors file: {error}") from error


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise IniError(f"cannot write {path}: {error.strerror}") from error


# -- the way back ------------------------------------------------------------------------------


def write_folder(network: Network, tensors: dict[str, Array], folder: Path) -> list[str]:
    """Write ``.syntxt`` files; returns remarks on what could not be written or was left out.

    Raises:
        IniError: for a tensor that is missing or has another shape.
    """
    files = [(cell, file) for cell in network.cells.values() for file in cell.files]
    lines: dict[str, str] = {}
    remarks: list[str] = []
    for cell, file in files:
        if file.key not in tensors:
            if file.quantizer:
                remarks.append(f"the file has no {file.key}: {file.stem}{SUFFIX} is not written")
                continue
            raise IniError(f"the file has no {file.key}, which {cell.name} needs")
        value = tensors[file.key]
        if value.shape != file.shape:
            raise IniError(
                f"{file.key} is {value.shape} in the file and {file.shape} in {cell.name}"
            )
        digits = DIGITS_OF_QUANTIZED if cell.weight or file.quantizer else DIGITS
        lines[file.stem] = _text(file, value.astype(np.float32), digits)
    own = {file.key for _, file in files}
    rest = [k for k in tensors if k not in own and not k.endswith(("initialized", "_tracked"))]
    remarks += [f"{key} belongs to no cell of the network" for key in rest]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IniError(f"cannot make {folder}: {error.strerror}") from error
    for stem, content in lines.items():
        _replace(folder / f"{stem}{SUFFIX}", content.encode())
    return remarks


def _text(file: ParameterFile, value: Array, digits: int) -> str:
    def words(numbers: Iterable[Any]) -> list[str]:
        return [f"{float(n):.{digits}g}" for n in numbers]

    if file.kind == "scalar":
        return words([value])[0]
    if file.kind == "vector":
        return "".join(f"{word}\n" for word in words(value))
    if file.kind == "linear":
        rows = value.T if file.swapped else value
        return "".join(" ".join(words(row)) + " \n" for row in rows)
    if file.kind == "deconv":
        value = _from_transposed(value, file)
    if file.mapping is not None:
        connected = _connected(file)
        kept = [value[o][connected[o]].ravel() for o in range(len(value))]
        return "".join(" ".join(words(row)) + " \n" for row in kept)
    rows = value.transpose(2, 3, 1, 0) if file.swapped else value
    return "".join(" ".join(words(row.ravel())) + " \n" for row in rows)
