"""The numbers of a ``.syntxt`` file, and where they belong in a tensor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ini_compat.errors import IniError, Place, quoted
from ini_compat.network import ParameterFile

Array = NDArray[Any]
CHARACTERS = b"0123456789+-.eE \t\r\n\v\f"  # of numbers and the space between them
LARGEST = float(np.finfo(np.float32).max)
LONGEST_NUMBER = 64
SMALLEST_LIMIT = 4096  # bytes that a file of few numbers may have


def read_numbers(path: Path, count: int) -> NDArray[np.float32]:
    """Read a file that has to hold ``count`` numbers.

    Raises:
        IniError: naming the file, and the line where something else stands.
    """
    try:
        size = path.stat().st_size
        if not path.is_file() or size > LONGEST_NUMBER * count + SMALLEST_LIMIT:
            what = f"has {size:,} bytes" if path.is_file() else "is not a file"
            raise IniError(f"{path} {what}. Accepted: a file of {count:,} numbers")
        content = path.read_bytes()
    except OSError as error:
        raise IniError(f"{path} cannot be read: {error.strerror}") from error
    words = content.split()
    if content.translate(None, CHARACTERS) or max(map(len, words), default=0) > LONGEST_NUMBER:
        raise _no_number(path, content)
    try:
        numbers = np.array(words, dtype="S").astype(np.float64)
    except ValueError:
        raise _no_number(path, content) from None
    if len(words) != count:
        raise IniError(f"{path} holds {len(words):,} numbers. Accepted: {count:,}")
    if (np.abs(numbers) > LARGEST).any():
        raise _no_number(path, content)
    return numbers.astype(np.float32)


def _no_number(path: Path, content: bytes) -> IniError:
    """Return the error for the first word that is none."""
    for line, words in enumerate(content.split(b"\n"), start=1):
        for word in words.split():
            if not _is_number(word):
                text = quoted(word[:LONGEST_NUMBER].decode(errors="replace"))
                message = f"{text} is not a number that a 32-bit float can hold"
                return IniError(message, Place(str(path), line))
    return IniError(f"{path} holds something that is not a number")


def _is_number(word: bytes) -> bool:
    if len(word) > LONGEST_NUMBER or word.translate(None, CHARACTERS):
        return False
    try:
        return abs(float(word)) <= LARGEST
    except ValueError:
        return False


def arranged(file: ParameterFile, numbers: Array) -> Array:
    """Return the tensor that the numbers of a file make."""
    if file.kind in ("vector", "scalar"):
        return numbers.reshape(file.shape)
    if file.kind == "linear":
        outputs, inputs = file.shape
        if file.swapped:
            return numbers.reshape(inputs, outputs).T.copy()
        return numbers.reshape(outputs, inputs)
    _check_form(file)
    tensor = np.zeros(file.shape, np.float32)
    kernels = _kernels(file, tensor)
    if file.mapping is None:
        ordered = _ordered(file, kernels)
        ordered[...] = numbers.reshape(ordered.shape)
    else:
        kernels[0][_connected(file)] = numbers.reshape(-1, kernels.shape[3])
    return tensor


def _check_form(file: ParameterFile) -> None:
    """Raise an IniError for forms of which only the name is known."""
    partly = file.groups > 1 or file.mapping is not None
    if file.flipped or (file.swapped and partly):
        key = "WeightsExportFlip=1" if file.flipped else "WeightsExportFormat=HWCO"
        where = "" if file.flipped else " where outputs do not see all channels"
        raise IniError(
            f"{file.stem} is neither read nor written with {key}{where}: export it without"
        )


def separated(file: ParameterFile, numbers: Array) -> tuple[Array, Array]:
    """Return weights and biases of a file that holds each output's bias behind its weights."""
    ends = np.cumsum(np.array(_counts(file)) + 1) - 1
    return np.delete(numbers, ends), numbers[ends]


def outputs_of(file: ParameterFile) -> int:
    """Return the number of outputs that a file of weights is for."""
    return len(_counts(file))


def written(file: ParameterFile, tensor: Array, digits: int) -> str:
    """Return what N2D2 writes for a tensor.

    Args:
        file: it is written to.
        tensor: of the state dict.
        digits: that count.
    """

    def words(numbers: Iterable[Any]) -> list[str]:
        return [f"{float(number):.{digits}g}" for number in numbers]

    if file.kind == "scalar":
        return words([tensor])[0]
    if file.kind == "vector":
        return "".join(f"{word}\n" for word in words(tensor))
    rows = _rows(file, np.ascontiguousarray(tensor))
    return "".join("".join(f"{word} " for word in words(row.ravel())) + "\n" for row in rows)


def _rows(file: ParameterFile, tensor: Array) -> Iterable[Array]:
    """Return the numbers of each line: those of an output, or in the other format its reverse."""
    if file.kind == "linear":
        return tensor.T if file.swapped else tensor
    _check_form(file)
    kernels = _kernels(file, tensor)
    if file.mapping is None:
        ordered = _ordered(file, kernels)
        outputs = kernels.shape[0] * kernels.shape[1]
        return ordered if file.swapped else ordered.reshape(outputs, -1)
    return [kernels[0, output, row] for output, row in enumerate(_connected(file))]


def _kernels(file: ParameterFile, tensor: Array) -> Array:
    """Return a view of a tensor as (groups, outputs of each, channels of each, kernel)."""
    first, second, height, width = file.shape
    groups = file.groups
    view = tensor.reshape(groups, first // groups, second, height * width)
    if file.kind == "deconv":  # torch has (channels, outputs of the group, ...)
        view = view.transpose(0, 2, 1, 3)
    return view


def _ordered(file: ParameterFile, kernels: Array) -> Array:
    """Return a view of kernels in the order of the file."""
    return kernels.transpose(3, 0, 2, 1) if file.swapped else kernels


def _connected(file: ParameterFile) -> NDArray[np.bool_]:
    """Return which outputs see which channels, (outputs, channels)."""
    assert file.mapping is not None
    return np.array([[bit == "1" for bit in row] for row in file.mapping]).T


def _counts(file: ParameterFile) -> list[int]:
    """Return the number of weights of each output."""
    if file.kind == "linear":
        return [file.shape[1]] * file.shape[0]
    kernels = _kernels(file, np.broadcast_to(np.float32(0), file.shape))
    groups, outputs, channels, size = kernels.shape
    if file.mapping is None:
        return [channels * size] * (groups * outputs)
    return [int(row.sum()) * size for row in _connected(file)]
