"""N2D2's parameter files (``.syntxt``) as a state dict in a safetensors file, and back."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from os.path import exists
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ini_compat.errors import IniError, quoted
from ini_compat.network import Cell, Network, ParameterFile, file_name
from ini_compat.parameter_files import (
    Array,
    arranged,
    outputs_of,
    read_numbers,
    separated,
    written,
)
from ini_compat.whole_files import write_bytes

SUFFIX = ".syntxt"
COPIES = ("_quant_weights", "_quant_biases", "_quant_weights_quant")  # of the last forward pass
WEIGHTED = ("conv", "deconv", "linear")
BATCH_NORMS = ("BatchNorm", "BatchNormalization")
EXTRA_STATE = "_extra_state"
DRAWN = "_drawn"
SHA256 = "_sha256"  # of the whole file, in which zeros stand for this sum itself
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
        raise IniError(f"{folder} is not a folder of weight files")
    state = State()
    missing: list[str] = []
    known: set[str] = set()
    for cell in network.cells.values():
        known |= {file.stem for file in cell.files} | {file_name(cell.name)}
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
    """Return the weights that came with an ONNX file; cells of the .ini keep initial values."""
    state = State()
    state.tensors = dict(network.weights)
    for cell in network.cells.values():
        _count_batches(cell, state)
    files = [file for cell in network.cells.values() for file in cell.files]
    drawn = [f.key for f in files if not f.quantizer and f.key not in state.tensors]
    if drawn:
        state.texts[DRAWN] = " ".join(drawn)
        state.notices.append(f"not in the ONNX file, so drawn: {', '.join(drawn)}")
    return state


def _read_cell(cell: Cell, folder: Path, state: State, missing: list[str]) -> None:
    files = cell.files
    if files and files[0].kind in WEIGHTED and not exists(_path(folder, files[0].stem)):
        single = _path(folder, files[0].stem.removesuffix("_weights"))
        if exists(single):
            files = files[2:] if _read_interleaved(cell, single, state) else files[1:]
    for file in files:
        path = _path(folder, file.stem)
        if exists(path):
            state.tensors[file.key] = arranged(file, read_numbers(path, file.count))
        elif file.optional:
            _start(cell, file, state)
        else:
            missing.append(f"{file.stem}{SUFFIX}")
    _count_batches(cell, state)


def _count_batches(cell: Cell, state: State) -> None:
    """Add what torch's batch norms have beside N2D2's parameters."""
    if cell.type not in BATCH_NORMS or not cell.files:
        return
    layer = cell.files[0].key.rpartition(".")[0]
    if cell.layers[layer].get("momentum") != 0:
        state.tensors[f"{layer}.num_batches_tracked"] = np.zeros((), np.int64)


def _start(cell: Cell, file: ParameterFile, state: State) -> None:
    """Give a value that has no file what N2D2 starts it with."""
    if not file.quantizer:
        state.tensors[file.key] = np.ones(file.shape, np.float32)
        state.notices.append(f"there is no {file.stem}{SUFFIX}: {file.key} is 1")
        return
    quantizer = cell.activation if file.key.startswith(f"{cell.site}.") else cell.weight
    arguments = {} if quantizer is None else quantizer.arguments
    start = arguments.get("alpha", arguments.get("step_size"))
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
            extra = f"{phase} SatWeight {cell.weight.n_steps}"
            state.texts[f"{owner}.weight_quantizer.{EXTRA_STATE}"] = extra


def _read_interleaved(cell: Cell, path: Path, state: State) -> bool:
    """Read one file with weights and bias of each output in turn; tell whether it had biases."""
    weights = cell.files[0]
    if weights.swapped:
        raise IniError(f"{path} is not read beside WeightsExportFormat: give it as two files")
    biases = next((f for f in cell.files if f.stem.endswith("_biases")), None)
    numbers = read_numbers(path, weights.count + (outputs_of(weights) if biases else 0))
    if biases:
        numbers, state.tensors[biases.key] = separated(weights, numbers)
    state.tensors[weights.key] = arranged(weights, numbers)
    return biases is not None


def _path(folder: Path, stem: str) -> Path:
    """Return the path of a file, which names of cells cannot lead out of the folder."""
    path = Path(f"{stem}{SUFFIX}")
    if path.is_absolute() or ".." in path.parts:
        raise IniError(f"the name of the file {quoted(str(path))} leads out of {folder}")
    return folder / path


# -- safetensors -------------------------------------------------------------------------------


def write_state(state: State, path: Path) -> None:
    """Write a safetensors file under a temporary name, and rename it."""
    tensors = {key: np.asarray(value, order="C") for key, value in state.tensors.items()}
    write_bytes(path, save(tensors, metadata=state.texts))


def read_state(path: Path) -> dict[str, Array]:
    """Read the tensors of a safetensors file.

    Raises:
        IniError: if it is missing, damaged or of another kind.
    """
    try:
        if path.exists() and not path.is_file():
            raise IniError(f"{path} is not a regular file")
        with safe_open(str(path), framework="numpy") as file:
            keys, texts = file.keys(), file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in keys}
        if SHA256 in texts and not _has_checksum(path.read_bytes(), texts[SHA256]):
            raise IniError(f"{path} is damaged: its checksum is wrong")
        return tensors
    except FileNotFoundError:
        raise IniError(f"{path} does not exist") from None
    except (SafetensorError, OSError, TypeError, ValueError, struct.error) as error:
        raise IniError(f"{path} is damaged or no safetensors file: {error}") from error


def _has_checksum(content: bytes, expected: str) -> bool:
    zeros = b"0" * len(expected)
    return hashlib.sha256(content.replace(expected.encode(), zeros, 1)).hexdigest() == expected


# -- the way back ------------------------------------------------------------------------------


def write_folder(network: Network, tensors: dict[str, Array], folder: Path) -> list[str]:
    """Write ``.syntxt`` files; returns remarks on what could not be written or was left out.

    Raises:
        IniError: for a tensor that is missing or has another shape.
    """
    files = [(cell, file) for cell in network.cells.values() for file in cell.files]
    stems = Counter(file.stem for _, file in files)
    remarks: list[str] = []
    for cell, file in files:
        _path(folder, file.stem)
        if stems[file.stem] > 1:
            raise IniError(f"two cells would have the same file {file.stem}{SUFFIX}: rename one")
        if file.key in tensors:
            _check(cell, file, tensors[file.key])
        elif file.quantizer:
            remarks.append(f"the file has no {file.key}: {file.stem}{SUFFIX} is not written")
        else:
            raise IniError(f"the file has no {file.key}, which {cell.name} needs")
    own = {file.key for _, file in files}
    rest = [k for k in tensors if k not in own and not k.endswith(("initialized", "_tracked"))]
    remarks += [f"{key} belongs to no cell of the network" for key in rest]
    for cell, file in files:
        if file.key in tensors:
            digits = DIGITS_OF_QUANTIZED if cell.weight or file.quantizer else DIGITS
            content = written(file, tensors[file.key].astype(np.float32), digits)
            write_bytes(_path(folder, file.stem), content.encode())
    return remarks


def _check(cell: Cell, file: ParameterFile, tensor: Array) -> None:
    if tensor.shape != file.shape:
        raise IniError(f"{file.key} is {tensor.shape} in the file and {file.shape} in {cell.name}")
    if not np.isfinite(tensor.astype(np.float32)).all():
        raise IniError(f"{file.key} has numbers that are not finite")
