"""Files that are broken, too large or made to do harm: one sentence each, and nothing else."""

from __future__ import annotations

import importlib
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from onnx_files import floats, graph, node, problems, read

from ini_compat.convert import experiment
from ini_compat.errors import IniError
from ini_compat.onnx_graph import file as onnx_file
from ini_compat.onnx_graph.file import read_onnx
from ini_compat.yaml_text import block

NODES = [
    node("Conv", "x w b", "conv", pads=[1, 1, 1, 1], strides=[1, 1]),
    node("BatchNormalization", "conv s s s s", "norm", epsilon=0.001),
    node("Clip", "norm low -", "act"),
    node("MaxPool", "act", "pool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    node("Shape", "pool", "shape"),
    node("Gather", "shape zero", "batch", axis=0),
    node("Concat", "batch minus", "to", axis=0),
    node("Reshape", "pool to", "flat"),
    node("Gemm", "flat fw fb", "fc", transB=1, alpha=1.0),
    node("Softmax", "fc", "y", axis=-1),
]
NUMBERS: dict[str, Any] = {
    **{"w": floats(2, 3, 3, 3), "b": floats(2), "s": floats(2) ** 2 + 1},
    **{"low": np.float32(0), "zero": np.array([0]), "minus": np.array([-1])},
    **{"fw": floats(4, 32), "fb": floats(4)},
}


def model() -> onnx.ModelProto:
    return graph(NODES, NUMBERS, (1, 3, 8, 8))


def test_the_file_itself_is_fine(tmp_path: Path) -> None:
    assert not read(tmp_path, model()).problems


def sentence(path: Path) -> str:
    with pytest.raises(IniError) as caught:
        read_onnx(str(path))
    assert caught.value.place is not None
    assert caught.value.place.file == str(path)
    assert "\n" not in str(caught.value)
    return caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\0" * 100, b"[onnx]\nInput=sp\n", b"\x89PNG\r\n\x1a\n", b"\xff" * 1000),
        b"\x08\x07" * 50,  # a model without a graph
        b"\x3a\x04\x0a\x02\x0a\x00",  # a graph whose only node has no output
    ],
)
def test_what_is_no_onnx_file(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(data)
    assert "no ONNX file" in sentence(file) or "no output" in sentence(file)


def test_files_that_are_cut_off(tmp_path: Path) -> None:
    data = model().SerializeToString()
    file = tmp_path / "model.onnx"
    for length in range(1, len(data), 97):
        file.write_bytes(data[:length])
        assert sentence(file)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "cannot be read" in sentence(tmp_path / "nothing.onnx")
    assert "regular" in sentence(tmp_path)
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "regular" in sentence(tmp_path / "pipe.onnx")


def test_files_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(model().SerializeToString())
    monkeypatch.setattr(onnx_file, "MOST_BYTES", 1000)
    assert "larger than 1000 bytes" in sentence(file)


def test_too_many_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(model().SerializeToString())
    monkeypatch.setattr(onnx_file, "MOST_NODES", 9)
    assert "there are 10 nodes" in sentence(file)


@pytest.mark.parametrize("attribute", [False, True])
def test_numbers_in_other_files_are_not_read(tmp_path: Path, attribute: bool) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(floats(2, 3, 3, 3).tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3, 3, 3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    made = model()
    del made.graph.initializer[0]
    if attribute:
        made.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    else:
        made.graph.initializer.append(tensor)
    file = tmp_path / "model.onnx"
    file.write_bytes(made.SerializeToString())
    assert "lie in another file, 'secret', which is not opened" in sentence(file)


def test_exports_with_separate_weights_are_refused_with_advice(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(
        model(), str(file), save_as_external_data=True, location="model.onnx.data", size_threshold=0
    )
    assert "external_data=False" in sentence(file)


def test_other_contents(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"

    def told(change: Any) -> str:
        made = model()
        change(made.graph)
        file.write_bytes(made.SerializeToString())
        return sentence(file)

    strings = numpy_helper.from_array(np.array(["a"], object), "words")
    assert "'words' holds STRING" in told(lambda g: g.initializer.append(strings))
    sparse = onnx.SparseTensorProto()
    assert "sparse" in told(lambda g: g.sparse_initializer.append(sparse))
    twice = node("Relu", "x", "conv")
    assert "two nodes make 'conv'" in told(lambda g: g.node.append(twice))
    broken = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 40])
    assert "broken" in told(lambda g: g.initializer.append(broken))
    broken = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[-1])
    assert "sizes" in told(lambda g: g.initializer.append(broken))
    empty = node("Constant", "", "c")
    assert "holds no numbers" in told(lambda g: g.node.insert(0, empty))


def test_constants_do_not_grow(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", "size", "c"), node("Add", "x c", "y")]
    text = problems(read(tmp_path, graph(nodes, {"size": np.array([1 << 20, 1 << 20])})))
    assert "cannot be computed" in text
    nodes = [node("Add", "a b", "c"), node("Add", "x c", "y")]
    constants = {"a": floats(100_000, 1), "b": floats(1, 100_000)}
    assert "cannot be computed" in problems(read(tmp_path, graph(nodes, constants)))
    nodes = [node("Concat", "a a", "c0", axis=0)]
    nodes += [node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(60)]
    nodes.append(node("Add", "x c60", "y"))
    assert "cannot be computed" in problems(read(tmp_path, graph(nodes, {"a": floats(10)})))


def test_names_that_break_lines(tmp_path: Path) -> None:
    text = problems(read(tmp_path, graph([node("Relu", "x", "y")]), "[y.Target]\n"))
    made = graph([node("Relu", "x", "y")])
    made.graph.node[0].output[0] = "a\n[evil]\nInput=sp"
    made.graph.output[0].name = "y"
    text = problems(read(tmp_path, made))
    assert "cannot be printed" in text
    assert "\n[evil]" not in text


def test_changed_bytes_never_do_more_than_a_sentence(tmp_path: Path) -> None:
    data = model().SerializeToString()
    source = random.Random(0)
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(source.choice([1, 1, 2, 8])):
            changed[source.randrange(len(changed))] = source.randrange(256)
        read(tmp_path, bytes(changed))  # anything but an IniError comes through


def test_changed_contents_never_do_more_than_a_sentence(tmp_path: Path) -> None:
    source = random.Random(1)
    values: list[Any] = [0, 1, -1, 2, 99, 1 << 40, 0.0, 1.5, float("nan"), float("inf"), "", "SAME"]
    values += [[], [1], [0, 0], [2, 2], [-1] * 4, [9] * 4, [1 << 40] * 4, [0.5, 0.5]]
    values += [numpy_helper.from_array(floats(2, 2))]
    keys = ["axis", "axes", "pads", "strides", "dilations", "kernel_shape", "group", "transA"]
    keys += ["transB", "alpha", "epsilon", "momentum", "min", "max", "ceil_mode", "perm", "shape"]
    keys += ["auto_pad", "ratio", "size", "keepdims", "value", "mode", "to", "output_padding"]
    operators = [*{n.op_type for n in NODES}, "Add", "Mul", "Div", "Sub", "Max", "LRN", "Pad"]
    operators += ["Squeeze", "Unsqueeze", "Transpose", "Flatten", "Dropout", "AveragePool", "Slice"]
    operators += ["ConvTranspose", "MatMul", "ReduceMean", "Cast", "Constant", "LeakyRelu", "Sum"]
    names = ["x", "", *NUMBERS, *(n.output[0] for n in NODES)]
    arrays = [np.float32(0), np.float32(np.nan), floats(0), floats(2, 2), floats(4, 1, 1)]
    arrays += [np.array([-1, 0, 1 << 60]), np.array([[0]]), np.array(True), np.array([2, 3])]
    for _ in range(300):
        made = model()
        made.opset_import[0].version = source.choice([1, 6, 11, 13, 18, 21])
        for _ in range(source.choice([1, 2, 3])):
            target = source.choice(list(made.graph.node))
            change = source.randrange(4)
            if change == 0:
                target.attribute.append(_attribute(source, keys, values))
            elif change == 1:
                target.op_type = source.choice(operators)
            elif change == 2 and target.input:
                target.input[source.randrange(len(target.input))] = source.choice(names)
            else:
                tensor = source.choice(list(made.graph.initializer))
                tensor.CopyFrom(numpy_helper.from_array(source.choice(arrays), tensor.name))
        network = read(tmp_path, made)
        assert all("\n" not in str(problem) for problem in network.problems)


def _attribute(source: random.Random, keys: list[str], values: list[Any]) -> onnx.AttributeProto:
    value = source.choice(values)
    kind = onnx.AttributeProto.INTS if value == [] else None
    return helper.make_attribute(source.choice(keys), value, attr_type=kind)


@pytest.mark.parametrize("opset", [0, -5])
def test_operators_of_an_opset_that_does_not_exist_are_reported(tmp_path: Path, opset: int) -> None:
    made = model()
    made.opset_import[0].version = opset
    network = read(tmp_path, made)
    assert f"opset {opset}, which does not exist. Accepted: 1 to" in str(network.problems[0])


def test_operators_of_an_opset_that_is_not_known_yet_are_noted(tmp_path: Path) -> None:
    made = model()
    made.opset_import[0].version = 999
    network = read(tmp_path, made)
    assert not network.problems
    assert any("operators of opset 999, and the newest" in note for note in network.notices)


def test_names_of_any_length_give_keys_that_are_read_again(tmp_path: Path) -> None:
    made = model()
    names = {n.output[0]: f"{'x' * 100_000}{i}" for i, n in enumerate(made.graph.node)}
    for step in made.graph.node:
        for field in (step.input, step.output):
            for place, name in enumerate(field):
                field[place] = names.get(name, name)
    made.graph.output[0].name = names[made.graph.output[0].name]
    network = read(tmp_path, made)
    assert not network.problems
    layers = experiment(network)["model"]["layers"]
    text = "\n".join(block({"layers": layers}, opened=["layers"]))
    assert yaml.safe_load(text)["layers"].keys() == layers.keys()
    assert max(map(len, layers)) <= 100


def test_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("ini_compat.onnx_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(IniError, match="pip install onnx"):
        importlib.import_module("ini_compat.onnx_graph.read")
