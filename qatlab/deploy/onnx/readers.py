"""The programs that read exported files, and what each of them needs: one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import NO_SIDES, Convolve
from qatlab.deploy.onnx import OPSETS
from qatlab.errors import ConfigError, wrong


@dataclass(frozen=True)
class Conventions:
    """How files are written beyond their format, with the same numbers.

    Attributes:
        operators: the only ones that the reader takes; None for any.
        bipolar: of qonnx: weights of -1 and 1 are a BipolarQuant; if not, a Quant of 2 bits.
        norm_behind: of qonnx: layers compute with codes, and a BatchNormalization behind them has
            all scales and the bias.
        rounds: of qdq: sites are a Div, a Round and a Mul in the place of a QuantizeLinear and a
            DequantizeLinear.
        averages_by_layers: of qonnx: averages are depthwise convolutions with weights of 1.
        fused: of qdq: layers as engines of signed bytes fuse them, see
            :mod:`qatlab.deploy.onnx.fused`.
        zero_points: of those: a byte other than 0 may stand for 0.
        narrow_weights: of those: no weight is -128.
    """

    operators: frozenset[str] | None = None
    bipolar: bool = True
    norm_behind: bool = False
    rounds: bool = False
    averages_by_layers: bool = False
    fused: bool = False
    zero_points: bool = False
    narrow_weights: bool = False


@dataclass(frozen=True)
class Reader:
    """A program that reads ONNX files.

    Attributes:
        name: as it is asked for.
        formats: that it takes; the first is its default.
        opsets: the lowest and the highest that it takes.
        rescale: of the format ``integer``, unless another one is asked for.
        only: whether it computes other numbers with any other one.
        moves_strides: whether it does so for strides of layers of 1x1 with padding.
        spoils: what it does to files that were written for other readers, by their format.
        advice: what has to be heeded to get the numbers of the network, by format.
        tried: the version that has computed exported files here; "" for none.
        conventions: what they are written after.
    """

    name: str
    formats: tuple[str, ...]
    opsets: tuple[int, int] = OPSETS
    rescale: str = "fixed32"
    only: bool = False
    moves_strides: bool = False
    spoils: Mapping[str, str] = field(default_factory=dict)
    advice: Mapping[str, str] = field(default_factory=dict)
    tried: str = ""
    conventions: Conventions = Conventions()


OF_ALL = {"Conv", "Gemm", "Quant", "Relu", "MaxPool", "Add", "Sub", "Mul", "Flatten", "Concat"}
FINN = Conventions(operators=frozenset({*OF_ALL, "BipolarQuant", "GlobalAveragePool"}))
# Without a warning, it takes channels of a GlobalAveragePool for rows.
HLS4ML = Conventions(
    operators=frozenset({*OF_ALL, "BatchNormalization"}),
    bipolar=False,
    norm_behind=True,
    averages_by_layers=True,
)
TFLITE = Conventions(fused=True, zero_points=True, narrow_weights=True)
READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("onnxruntime", ("qdq", "integer"), tried="1.32"),
        Reader(
            "openvino",
            ("integer", "qdq"),
            rescale="sums24",
            opsets=(13, 24),  # it has no integers of 2 bits
            only=True,
            moves_strides=True,
            spoils={
                "integer": "computes sums of 64 bits in 32",
                "qdq": "moves quantizers to compute in 8 bits",
            },
            advice={
                "qdq": "compile it with INFERENCE_PRECISION_HINT=f32, as it computes in bfloat16 "
                "where the processor has that"
            },
            tried="2026.4.1",
            conventions=Conventions(rounds=True),
        ),
        Reader("tensorrt", ("qdq",), opsets=(13, 19), conventions=Conventions(fused=True)),
        Reader("tflite", ("qdq",), opsets=(13, 19), conventions=TFLITE),
        Reader("tvm", ("qdq",), opsets=(13, 19)),
        Reader("qonnx", ("qonnx",), tried="1.0"),
        Reader("hls4ml", ("qonnx",), tried="1.3", conventions=HLS4ML),
        Reader("finn", ("qonnx",), tried="1.4", conventions=FINN),
    )
}
ADVICE = {  # where an operator is not taken
    "Slice": "use shortcuts with convolutions of 1x1 instead of option A",
    "Pad": "use padding of the layers, and shortcuts with convolutions of 1x1",
    "Clip": "give the site all levels of its bits: no n_steps, no upper bound such as ReLU6's",
    "AveragePool": "average the whole map",
    "Softmax": "let the network end with what the softmax reads",
    "LogSoftmax": "let the network end with what the softmax reads",
}


def check_operators(reader: Reader, layer: str, operators: Iterable[str]) -> None:
    """Raise a ConfigError for an operator that a reader does not take.

    Args:
        reader: of the file.
        layer: name of the layer or site that is written with them.
        operators: of ONNX.
    """
    taken = reader.conventions.operators
    for kind in operators:
        if taken is not None and kind not in taken:
            advice = ADVICE.get(kind, "replace it, or use --for onnxruntime")
            raise ConfigError(
                f"{layer} is written with {kind}, which {reader.name} does not take: {advice}."
            )


def check_rescale(reader: Reader, rescale: str) -> None:
    """Raise a ConfigError for a rescaling with which a reader computes other numbers."""
    if reader.only and rescale != reader.rescale:
        raise wrong(
            "--rescale", rescale, (reader.rescale,), f"{reader.name} {reader.spoils['integer']}."
        )


def check_layers(reader: Reader, network: IntegerNetwork) -> None:
    """Raise a ConfigError for a layer that a reader computes wrongly without a warning."""
    for op in network.of(Convolve):
        if (
            reader.moves_strides
            and op.kernel == (1, 1)
            and op.padding != NO_SIDES
            and max(op.stride) > 1
        ):
            raise ConfigError(
                f"{op.name}: {reader.name} computes a map of another size for a layer of 1x1 with "
                "strides and padding: leave out the padding, or use --for onnxruntime."
            )


def unfit(facts: Mapping[str, str]) -> dict[str, str]:
    """Return the readers that compute another network from a file without a warning, and how.

    Args:
        facts: metadata of the file.
    """
    kind = facts["format"]
    return {
        name: reader.spoils[kind]
        for name, reader in READERS.items()
        if kind in reader.spoils
        and facts.get("reader") != name
        and not (kind == "integer" and facts.get("rescale") == reader.rescale)
    }


def advice(facts: Mapping[str, str]) -> list[str]:
    """Return sentences on what a file is not for, and on how its reader is to be used.

    Args:
        facts: metadata of the file.
    """
    advice = READERS[facts.get("reader", "onnxruntime")].advice.get(facts["format"])
    return [
        *([f"For {facts['reader']}: {advice}."] if advice else []),
        *(
            f"Not for {name}, which {reason}: export with --for {name}."
            for name, reason in unfit(facts).items()
        ),
    ]


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
