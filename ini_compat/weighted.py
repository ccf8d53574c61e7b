"""Cells with weights: Conv, Deconv, Fc, BatchNorm."""

from __future__ import annotations

from math import prod

from ini_compat import geometry
from ini_compat.cells import CellReader
from ini_compat.errors import IniError
from ini_compat.fillers import read_filler
from ini_compat.geometry import Mapping, check_size, pair
from ini_compat.network import Node, Shape
from ini_compat.quantizers import read_weight

BOTH_SOLVERS = ("Solvers.", "WeightsSolver.", "BiasSolver.")


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
    bias = not reader.config.boolean("NoBias", False)
    mapping = geometry.read_mapping(
        section, reader.cell.inputs, [s[0] for s in reader.shapes], outputs
    )
    sizes = zip((height, width), kernel, stride, padding, dilation, sub, strict=True)
    size = (
        [geometry.deconv_size(*numbers[:5]) for numbers in sizes]
        if transposed
        else [geometry.conv_size(*numbers) for numbers in sizes]
    )
    shape: Shape = check_size(section, (outputs, size[0], size[1]), before)
    groups = mapping.groups
    node: Node = {"type": "deconv" if transposed else "conv", "channels": outputs}
    node["kernel"] = list(kernel)
    for key, value, plain in (
        ("stride", stride, (1, 1)),
        ("padding", padding, (0, 0)),
        ("dilation", dilation, (1, 1)),
        ("subsample", sub, (1, 1)),
    ):
        node |= {key: list(value)} if value != plain else {}
    node |= {"groups": groups} if groups > 1 else {}
    node |= {"mapping": list(mapping.rows)} if groups == 0 else {}
    if transposed:
        size_of_weights = (channels, outputs // max(groups, 1), *kernel)
    else:
        size_of_weights = (outputs, channels // max(groups, 1), *kernel)
    if prod(size_of_weights) > 1 << 32:
        raise reader.error("NbOutputs", f"makes {prod(size_of_weights):,} weights")
    name = _weighted(reader, node, size_of_weights, bias, None if groups else mapping)
    connected = prod(size_of_weights) if groups else sum(r.count("1") for r in mapping.rows)
    connected *= 1 if groups else prod(kernel)
    reader.cell.parameters = connected + (outputs if bias else 0)
    if not transposed:
        _quantize(reader, name)
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
    bias = not reader.config.boolean("NoBias", False)
    node: Node = {"type": "linear", "channels": outputs}
    keep = reader.config.real("DropConnect", 1.0)
    node |= {"drop_connect": keep} if keep != 1.0 else {}
    node |= {"normalize": True} if reader.config.boolean("Normalize", False) else {}
    if inputs * outputs > 1 << 32:
        raise reader.error("NbOutputs", f"makes {inputs * outputs:,} weights")
    name = _weighted(reader, node, (outputs, inputs), bias, None)
    reader.cell.parameters = inputs * outputs + (outputs if bias else 0)
    _quantize(reader, name)
    reader.finish((outputs, 1, 1))


def batch_norm(reader: CellReader) -> None:
    """Read a batch normalisation."""
    config = reader.config
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    for key in ("ScalesSharing", "BiasesSharing", "MeansSharing", "VariancesSharing"):
        _refuse_sharing(reader, key)
    reader.check_config(
        *("Epsilon", "MovingAverageMomentum", "BackPropagate"),
        solvers=("Solvers.", "ScaleSolver.", "BiasSolver."),
    )
    node: Node = {"type": "batch_norm"}
    epsilon = config.real("Epsilon", 1e-5)
    momentum = config.real("MovingAverageMomentum", 0.1)
    if not 0 <= momentum < 1:
        raise reader.error("MovingAverageMomentum", f"is {momentum:g}. Accepted: from 0, below 1")
    node |= {"eps": epsilon} if epsilon != 1e-5 else {}
    node |= {"momentum": momentum} if momentum != 0.1 else {}
    _no_back_propagation(reader)
    name = reader.add(node)
    reader.cell.solvers[f"{name}.weight"] = reader.solver("ScaleSolver")
    reader.cell.solvers[f"{name}.bias"] = reader.solver("BiasSolver")
    reader.cell.parameters = 2 * shape[0]
    for stem, key in (
        ("scales", "weight"),
        ("biases", "bias"),
        ("means", "running_mean"),
        ("variances", "running_var"),
    ):
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
    reader: CellReader, node: Node, size: tuple[int, ...], bias: bool, mapping: Mapping | None
) -> str:
    section, cell = reader.section, reader.cell
    for key in ("WeightsSharing", "BiasesSharing"):
        _refuse_sharing(reader, key)
    for key, initial in (("WeightsFiller", "weight_init"), ("BiasFiller", "bias_init")):
        filler = read_filler(section, key, reader.pace.lose)
        if filler is not None and (bias or initial == "weight_init"):
            node[initial] = filler
    node |= {} if bias else {"bias": False}
    _no_back_propagation(reader)
    if reader.config.owner("OutputsRemap"):
        reader.lose("OutputsRemap", "only changes what N2D2 exports", "ignored")
    name = reader.add(node)
    formats = ("OC", "CO") if node["type"] == "linear" else ("OCHW", "HWCO")
    swapped = reader.config.choice("WeightsExportFormat", formats, formats[0]) == formats[1]
    if reader.config.boolean("WeightsExportFlip", False):
        reader.lose("WeightsExportFlip", "weights are read as they are trained", "ignored")
    reader.file(
        *("weights", f"{name}.weight", size, node["type"]),
        mapping=None if mapping is None else mapping.rows,
        swapped=swapped,
        groups=node.get("groups", 1),
    )
    cell.solvers[f"{name}.weight"] = reader.solver("WeightsSolver")
    if bias:
        cell.solvers[f"{name}.bias"] = reader.solver("BiasSolver")
        reader.file("biases", f"{name}.bias", (node["channels"],), "vector")
    return name


def _quantize(reader: CellReader, name: str) -> None:
    quantizer = read_weight(reader.section)
    reader.cell.weight = quantizer
    if quantizer is None:
        return
    if quantizer.method == "SAT" and len(reader.inputs) > 1:
        reader.lose(
            "QWeight",
            "N2D2 divides the weights of each parent by their own largest value, here those of all "
            "parents have one",
        )
    if quantizer.method == "LSQ":
        key = f"{name}.weight_quantizer.step_size"
        reader.cell.solvers[key] = reader.own_solver("QWeightSolver")
        state = f"quantize LsqWeight {quantizer.n_steps}"
        reader.file("alphaW_LSQ", key, (), "scalar", optional=True, quantizer=state)


def _no_back_propagation(reader: CellReader) -> None:
    if not reader.config.boolean("BackPropagate", True):
        reader.lose("BackPropagate", "gradients flow on to the cells before this one", "ignored")


def _refuse_sharing(reader: CellReader, key: str) -> None:
    if reader.section.has(key):
        raise reader.error(key, "shares parameters between cells, which is not supported here")


def _refuse_kernels(reader: CellReader) -> None:
    for key in reader.section.keys():
        if key.startswith("Kernel[") or key == "Kernel.Normalize":
            raise reader.error(key, "gives a kernel number by number, which is not supported here")
