"""The programs that read exported files, and what each of them needs: one table."""

from __future__ import annotations

from dataclasses import dataclass

from qatlab.deploy.onnx import OPSETS
from qatlab.errors import wrong


@dataclass(frozen=True)
class Reader:
    """A program that reads ONNX files.

    Attributes:
        formats: that it takes; the first is its default.
        opsets: the lowest and the highest that it takes.
        rescale: of the format ``integer``, unless another one is asked for.
        tried: the version that has computed exported files here, and with what; "" for none.
    """

    formats: tuple[str, ...]
    opsets: tuple[int, int] = OPSETS
    rescale: str = "fixed32"
    tried: str = ""


READERS: dict[str, Reader] = {
    "onnxruntime": Reader(("qdq", "integer"), tried="1.32"),
    "openvino": Reader(("qdq", "integer"), opsets=(21, OPSETS[1]), rescale="float"),
    "tensorrt": Reader(("qdq",), opsets=(13, 19)),
    "tflite": Reader(("qdq",), opsets=(13, 19)),
    "tvm": Reader(("qdq",), opsets=(13, 19)),
    "qonnx": Reader(("qonnx",)),
    "hls4ml": Reader(("qonnx",)),
    "finn": Reader(("qonnx",)),
}


def reader_of(kind: str) -> str:
    """Return the reader that a format is written for where none is named."""
    return next(name for name, reader in READERS.items() if kind in reader.formats)


def chosen(name: str | None, kind: str | None, opset: int | None) -> tuple[str, str]:
    """Return the names of reader and format for what a user asks for.

    Args:
        name: of the reader, None for the first that takes the format.
        kind: the format, None for the reader's default.
        opset: the one asked for, None for the lowest that does.

    Raises:
        ConfigError: for what does not go together.
    """
    if name is None:
        name = reader_of(kind or "qdq")
    if name not in READERS:
        raise wrong("--for", name, READERS)
    reader = READERS[name]
    if kind is not None and kind not in reader.formats:
        raise wrong("--format", kind, reader.formats, f"{name} reads no other.")
    lowest, highest = reader.opsets
    if opset is not None and not lowest <= opset <= highest:
        advice = "" if reader.opsets == OPSETS else f"{name} reads no other."
        raise wrong("--opset", opset, f"{lowest} to {highest}", advice)
    return name, kind or reader.formats[0]
