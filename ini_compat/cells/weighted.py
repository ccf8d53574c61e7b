"""Cells with weights: Conv, Deconv, Fc, BatchNorm."""

from __future__ import annotations

from math import prod

from ini_compat.cells.fillers import read_filler
from ini_compat.cells.geometry import check_size, conv_size, deconv_size, pair
from ini_compat.cells.mapping import read_mapping
from ini_compat.cells.quantizers import read_weight
from ini_compat.cells.reader import CellReader
from ini_compat.errors import IniError
from ini_compat.network import IMAGE, Node

BOTH_SOLVERS = ("Solvers.", "WeightsSolver.", "BiasSolver.")
MOST_WEIGHTS = 1 << 32
BATCH_NORM_FILES = {
    "scales": "weight",
    "biases": "bias",
    "means": "running_mean",
    "variances": "running_var",
}


def conv(reader: CellReader) -> None:
    """Read a convolution."""
    _conv(reader, transposed=False)


def deconv(reader: CellReader) -> None:
    """Read a transposed convolution."""
    _conv(reader, transposed=True)


def _conv(reader: CellReader, transposed: bool) -> None:
    section = reader.section
    channels, height, width = before = reader.joined()
    outputs = reader.number_of_outputs()
    kernel = pair(section, "Kernel", None, "KernelSize")
    stride = pair(section, "Stride", (1, 1))
    padding = pair(section, "Padding", (0, 0), lowest=0)
    dilation = pair(section, "Dilation", (1, 1))
    sub = (1, 1) if transposed else pair(section, "SubSample", (1, 1))
    _refuse_kernels(reader)
    reader.check_config(
        *("NoBias", "BackPropagate", "WeightsExportFormat", "WeightsExportFlip", "OutputsRemap"),
        solvers=BOTH_SOLVERS,
    )
    sizes = zip((height, width), kernel, stride, padding, dilation, sub, strict=True)
    plane = [deconv_size(*s[:5]) if transposed else conv_size(*s) for s in sizes]
    shape = check_size(section, (outputs, plane[0], plane[1]), before)
    counts = [shape[0] for shape in reader.shapes]
    mapping = read_mapping(section, reader.cell.inputs, counts, outputs)
    node: Node = {"type": "deconv" if transposed else "conv", "channels": outputs}
    node["kernel"] = list(kernel)
    for key, value, plain in (
        ("stride", stride, (1, 1)),
        ("padding", padding, (0, 0)),
        ("dilation", dilation, (1, 1)),
        ("subsample", sub, (1, 1)),
    ):
        node |= {key: list(value)} if value != plain else {}
    node |= {"groups": mapping.groups} if mapping.groups > 1 else {}
    node |= {"mapping": list(mapping.irregular)} if not mapping.groups else {}
    groups = max(mapping.groups, 1)
    size = (channels, outputs // groups) if transposed else (outputs, channels // groups)
    name = _weighted(reader, node, (*size, *kernel), mapping.irregular or None)
    reader.cell.parameters += mapping.connections * prod(kernel)
    if not transposed:
        _quantize(reader, name)
    _no_back_propagation(reader)
    reader.finish(shape)


def fc(reader: CellReader) -> None:
    """Read a fully-connected layer."""
    outputs = reader.number_of_outputs()
    reader.check_config(
        *("NoBias", "Normalize", "BackPropagate", "DropConnect", "WeightsExportFormat"),
        "OutputsRemap",
        solvers=BOTH_SOLVERS,
    )
    crop(reader)
    inputs = sum(prod(shape) for shape in reader.shapes)
    node: Node = {"type": "linear", "channels": outputs}
    if reader.config.boolean("Normalize", False):
        raise reader.error("Normalize", "is 1, which is not supported here")
    keep = reader.config.real("DropConnect", 1.0)
    if not 0 < keep <= 1:
        raise reader.wrong("DropConnect", "a number in (0, 1]")
    if keep < 1 and reader.on_gpu:
        reader.note("DropConnect", "N2D2's GPU code does not use it", "ignored")
    elif keep < 1:
        node["drop_connect"] = keep
    name = _weighted(reader, node, (outputs, inputs), None)
    reader.cell.parameters += inputs * outputs
    _quantize(reader, name)
    _no_back_propagation(reader)
    reader.finish((outputs, 1, 1))


def batch_norm(reader: CellReader) -> None:
    """Read a batch normalisation."""
    config = reader.config
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    _refuse_sharing(reader, "ScalesSharing", "BiasesSharing", "MeansSharing", "VariancesSharing")
    reader.check_config(
        *("Epsilon", "MovingAverageMomentum", "BackPropagate"),
        solvers=("Solvers.", "ScaleSolver.", "BiasSolver."),
    )
    node: Node = {"type": "batch_norm"}
    epsilon = config.real("Epsilon", 1e-5)
    if epsilon < 0:
        raise reader.wrong("Epsilon", "0 or more")
    momentum = config.real("MovingAverageMomentum", 0.1)
    if not 0 <= momentum < 1:
        raise reader.wrong("MovingAverageMomentum", "a number in [0, 1)")
    node |= {"eps": epsilon} if epsilon != 1e-5 else {}
    node |= {"momentum": momentum} if momentum != 0.1 else {}
    _no_back_propagation(reader)
    name = reader.add(node)
    reader.cell.solvers[f"{name}.weight"] = reader.solver("ScaleSolver")
    reader.cell.solvers[f"{name}.bias"] = reader.solver("BiasSolver")
    reader.cell.parameters = 2 * shape[0]
    for stem, key in BATCH_NORM_FILES.items():
        reader.file(stem, f"{name}.{key}", shape[:1], "vector", optional=stem == "scales")
    reader.finish(shape)


def crop(reader: CellReader) -> None:
    """Cut the inputs as ``InputOffsetX/Y`` and ``InputWidth/Height`` say."""
    section = reader.section
    keys = ("InputOffsetX", "InputOffsetY", "InputWidth", "InputHeight")
    if not any(section.has(key) for key in keys):
        return
    left, top, wide, high = (section.unsigned(key, 0) for key in keys)
    channels, height, width = reader.joined()
    wide, high = wide or width - left, high or height - top
    if min(wide, high) < 1 or left + wide > width or top + high > height:
        raise IniError(
            f"[{section.name}] cuts {wide}x{high} at {left}, {top} out of inputs of only "
            f"{width}x{height}",
            section.header,
        )
    if (wide, high) == (width, height):
        return
    edges = {"top": -top, "bottom": top + high - height, "left": -left}
    edges["right"] = left + wide - width
    node: Node = {"type": "padding", **{key: n for key, n in edges.items() if n}}
    reader.add(node, "_crop")
    reader.shapes = [(channels, high, wide)]


def _weighted(
    reader: CellReader, node: Node, size: tuple[int, ...], mapping: tuple[str, ...] | None
) -> str:
    """Add the layer with its initial values, files, solvers and number of biases."""
    section, cell, config = reader.section, reader.cell, reader.config
    if prod(size) > MOST_WEIGHTS:
        raise reader.error("NbOutputs", f"makes more than {MOST_WEIGHTS:,} weights")
    _refuse_sharing(reader, "WeightsSharing", "BiasesSharing")
    owner = config.owner("OutputsRemap")
    if owner is not None and owner.text("OutputsRemap"):
        raise reader.error("OutputsRemap", "is not supported here")
    bias, outputs = not config.boolean("NoBias", False), node["channels"]
    weights = read_filler(section, "WeightsFiller", reader.pace.note)
    biases = read_filler(section, "BiasFiller", reader.pace.note)
    node |= {"weight_init": weights} if weights else {}
    if not bias:
        node["bias"] = False
    elif biases:
        if biases["type"] in ("xavier", "he"):
            raise reader.error(
                "BiasFiller",
                "depends on numbers of inputs and outputs, which a bias does not have. Accepted: "
                "ConstantFiller, NormalFiller, UniformFiller",
            )
        node["bias_init"] = biases
    name = reader.add(node)
    formats = ("OC", "CO") if node["type"] == "linear" else ("OCHW", "HWCO")
    reader.file(
        *("weights", f"{name}.weight", size, node["type"]),
        mapping=mapping,
        swapped=config.choice("WeightsExportFormat", formats, formats[0]) == formats[1],
        flipped=config.boolean("WeightsExportFlip", False),
        groups=node.get("groups", 1),
    )
    cell.solvers[f"{name}.weight"] = reader.solver("WeightsSolver")
    bias_solver = reader.solver("BiasSolver", there=bias)
    if bias:
        cell.solvers[f"{name}.bias"] = bias_solver
        reader.file("biases", f"{name}.bias", (outputs,), "vector")
        cell.parameters = outputs
    return name


def _quantize(reader: CellReader, name: str) -> None:
    quantizer = read_weight(reader.section, reader.pace.note)
    reader.cell.weight = quantizer
    if quantizer is None:
        return
    if quantizer.method == "SAT" and len(reader.inputs) > 1:
        reader.note(
            "QWeight",
            "N2D2 quantizes and rescales the weights of each parent by themselves, here those of "
            "all parents are one tensor",
        )
    if quantizer.method == "LSQ":
        key = f"{name}.weight_quantizer.step_size"
        reader.cell.solvers[key] = reader.own_solver("QWeightSolver")
        state = f"quantize LsqWeight {quantizer.n_steps}"
        reader.file("alphaW_LSQ", key, (), "scalar", optional=True, quantizer=state)


def _no_back_propagation(reader: CellReader) -> None:
    if reader.config.boolean("BackPropagate", True):
        return
    if reader.cell.weight is not None:
        reader.note("BackPropagate", "N2D2 does not train quantized weights with it, here they are")
    if set(reader.cell.inputs) != {IMAGE}:
        reader.note("BackPropagate", "gradients flow on to the cells before this one", "ignored")


def _refuse_sharing(reader: CellReader, *keys: str) -> None:
    for key in keys:
        if reader.section.has(key):
            raise reader.error(key, "shares parameters between cells, which is not supported here")


def _refuse_kernels(reader: CellReader) -> None:
    for key in reader.section:
        if key.startswith("Kernel[") or key == "Kernel.Normalize":
            raise reader.error(key, "gives a kernel number by number, which is not supported here")
