"""What an .ini says about the cells of an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_files import compute, floats, graph, layers, losses, node, problems, read

from ini_compat.build import understand
from ini_compat.convert import experiment
from ini_compat.network import Network

RESNET = "resnetv15_"


def resnet18v1(size: int = 224, width: int = 8) -> onnx.ModelProto:
    """ResNet-18 v1 with the names that MXNet gave it, and fewer channels."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Any] = {}

    def add(operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(node(operator, " ".join(inputs), name, **attributes))
        return name

    def conv(x: str, name: str, channels: tuple[int, int], kernel: int, stride: int) -> str:
        constants[f"{name}_weight"] = floats(channels[1], channels[0], kernel, kernel) / 5
        pad = (kernel - 1) // 2
        geometry = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        more = {"dilations": [1, 1], "group": 1}
        return add("Conv", [x, f"{name}_weight"], f"{name}_fwd", **geometry, **more)

    def norm(x: str, name: str, channels: int) -> str:
        parts = ("gamma", "beta", "running_mean", "running_var")
        names = [f"{name}_{part}" for part in parts]
        for i, part in enumerate(names):
            constants[part] = floats(channels, seed=i) / 10 + (i in (0, 3))
        settings = {"epsilon": 1e-5, "momentum": 0.9, "spatial": 1}
        return add("BatchNormalization", [x, *names], f"{name}_fwd", **settings)

    x = conv("data", f"{RESNET}conv0", (3, width), 7, 2)
    x = norm(x, f"{RESNET}batchnorm0", width)
    x = add("Relu", [x], f"{RESNET}relu0_fwd")
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    x = add("MaxPool", [x], f"{RESNET}pool0_fwd", **pool)
    before = width
    for stage in range(1, 5):
        after, conv_number = width << (stage - 1), 0
        for block in range(2):
            stride = 2 if stage > 1 and block == 0 else 1
            prefix, shortcut = f"{RESNET}stage{stage}_", x
            for i in range(2):
                name = f"{prefix}conv{conv_number}"
                x = conv(x, name, (before if i == 0 else after, after), 3, stride if i == 0 else 1)
                x = norm(x, f"{prefix}batchnorm{conv_number}", after)
                conv_number += 1
                if i == 0:
                    x = add("Relu", [x], f"{prefix}relu{block}_fwd")
            if before != after:
                shortcut = conv(shortcut, f"{prefix}conv{conv_number}", (before, after), 1, stride)
                shortcut = norm(shortcut, f"{prefix}batchnorm{conv_number}", after)
                conv_number += 1
            x = add("Add", [shortcut, x], f"{prefix}_plus{block}")
            x = add("Relu", [x], f"{prefix}activation{block}")
            before = after
    x = add("GlobalAveragePool", [x], f"{RESNET}pool1_fwd")
    x = add("Flatten", [x], "flatten_170")
    constants["dense_weight"], constants["dense_bias"] = floats(1000, before) / 5, floats(1000)
    add("Gemm", [x, "dense_weight", "dense_bias"], f"{RESNET}dense0_fwd", transB=1)
    model = graph(nodes, constants, (1, 3, size, size), opset=8)
    model.graph.input[0].name = "data"
    return model


def real(shared: Path, folder: Path, name: str) -> Network:
    (folder / "resnet18v1.onnx").write_bytes(resnet18v1().SerializeToString())
    path = shared / "data" / "n2d2" / "models" / name
    return understand(str(path), onnx=str(folder / "resnet18v1.onnx"))


def test_the_model_of_the_field(tmp_path: Path, shared: Path) -> None:
    network = real(shared, tmp_path, "ONNX/resnet-18-v1-onnx.ini")
    assert not network.problems
    assert not network.notices or "resnet18v1" not in "".join(network.notices)
    made = layers(network)
    assert [layer["type"] for layer in made.values()].count("conv") == 20
    assert network.targets[0].cell == f"{RESNET}dense0_fwd"
    assert not any(cell.weight or cell.activation for cell in network.cells.values())
    assert experiment(network)["model"]["outputs"] == [f"{RESNET}dense0_fwd"]


def test_the_quantized_model_of_the_field(tmp_path: Path, shared: Path) -> None:
    network = real(shared, tmp_path, "quantizer/resnet-18v1-LSQ-8b.ini")
    assert not network.problems
    cells = network.cells
    sites = [name for name, cell in cells.items() if cell.activation]
    assert len(sites) == 17  # all that the .ini lists
    assert cells[f"{RESNET}stage3_activation1"].site == f"{RESNET}stage3_activation1_qact"
    for name in sites:
        quantizer = cells[name].activation
        assert quantizer is not None
        assert (quantizer.method, quantizer.n_steps) == ("LSQ", 255)
        assert next(iter(cells[name].layers.values()))["type"] == "relu"
        (solver,) = cells[name].solvers.values()
        assert (solver["lr"], solver["momentum"], solver["weight_decay"]) == (0.001, 0.9, 0.0001)
    stems = [cells[f"{RESNET}{n}"].files[0].stem for n in ("relu0_fwd", "stage1_activation0")]
    assert stems == [
        f"{RESNET}relu0_fwd_QAct_LSQ_StepSize",
        f"{RESNET}stage1_activation0_QAct_LSQ_StepSize",
    ]
    weighted = [cell for cell in cells.values() if cell.type in ("Conv", "Fc")]
    assert len(weighted) == 21
    assert all(c.weight is not None and c.weight.method == "LSQ" for c in weighted)
    assert "bias" in "".join(cells[f"{RESNET}dense0_fwd"].solvers)  # NoBias=0
    norm = cells[f"{RESNET}batchnorm0_fwd"]
    assert norm.solvers[f"{norm.output}.weight"]["weight_decay"] == 0.0001
    assert cells["soft1"].with_loss == "softmax"
    assert [item.key for item in network.deviations if "onnx:" in item.key] == []
    node = experiment(network)
    assert node["model"]["outputs"] == [f"{RESNET}dense0_fwd"]


def test_the_model_of_the_field_computes_what_the_file_says(tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    model = resnet18v1(32, 4)
    # Its output in opset 8 is that of today's operators, which onnx can compute.
    model.opset_import[0].version = 17
    for item in model.graph.node:
        for attribute in [a for a in item.attribute if a.name == "spatial"]:
            item.attribute.remove(attribute)
    network = read(tmp_path, model, "", (3, 32, 32))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor(ReferenceEvaluator(model).run(None, {"data": x.numpy()})[0])
    made = compute(network, f"{RESNET}dense0_fwd", x)
    # Outputs are large and each sums up 20 layers in float32.
    size = wanted.abs().max()
    assert size > 1
    torch.testing.assert_close(made / size, wanted / size, rtol=0, atol=1e-4)


SMALL = [
    node("Conv", "x w b", "conv", pads=[1, 1, 1, 1]),
    node("BatchNormalization", "conv s o m v", "norm"),
    node("Relu", "norm", "act"),
    node("Conv", "act w2", "conv2"),
    node("GlobalAveragePool", "conv2", "pool"),
    node("Flatten", "pool", "flat"),
    node("Gemm", "flat fw fb", "fc", transB=1),
]
NUMBERS: dict[str, Any] = {
    **{"w": floats(4, 3, 3, 3), "b": floats(4), "w2": floats(5, 4, 3, 3)},
    **{"s": floats(4), "o": floats(4), "m": floats(4), "v": floats(4) ** 2 + 1},
    **{"fw": floats(10, 5), "fb": floats(10)},
}


def small(folder: Path, more: str = "", **changes: Any) -> Network:
    return read(folder, graph(SMALL, NUMBERS, **changes), more)


def test_weights_of_the_file(tmp_path: Path) -> None:
    network = small(tmp_path)
    found = {key: value for key, value in network.weights.items() if key[:5] != "tail."}
    assert found.keys() == {
        *("conv.weight", "conv.bias", "conv2.weight", "fc.weight", "fc.bias"),
        *("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
    }
    assert np.array_equal(found["norm.running_var"], NUMBERS["v"])
    assert np.array_equal(found["fc.weight"], NUMBERS["fw"])


def test_weights_are_left_alone(tmp_path: Path) -> None:
    network = small(tmp_path, "ONNX_init=0\n[onnx:Conv_def]\nWeightsFiller=HeFiller\n")
    assert network.weights == {}
    made = layers(network)
    assert (
        made["conv"]["weight_init"]
        == made["conv2"]["weight_init"]
        == {
            "type": "he",
            "norm": "fan_in",
        }
    )
    assert "weight_init" not in made["fc"]


def test_definitions_hold_for_their_kind(tmp_path: Path) -> None:
    network = small(
        tmp_path,
        """
[onnx:Conv_def]
QWeight=SAT
QWeight.Range=15
ConfigSection=config
[onnx:Fc_def]
QWeight=SAT
QWeight.Range=3
[onnx:BatchNorm_def]
ConfigSection=norm.config
[config]
Solvers.LearningRate=0.5
[norm.config]
Solvers.LearningRate=0.25
MovingAverageMomentum=0.3
Epsilon=0.125
""",
    )
    cells = network.cells
    ranges = {n: c.weight.n_steps for n, c in cells.items() if c.weight is not None}
    assert ranges == {"conv": 15, "conv2": 15, "fc": 3}
    rates = {key: s["lr"] for cell in cells.values() for key, s in cell.solvers.items()}
    assert rates["conv.weight"] == rates["conv2.weight"] == rates["conv.bias"] == 0.5
    assert rates["norm.weight"] == rates["norm.bias"] == 0.25
    assert rates["fc.weight"] == 0.01
    assert layers(network)["norm"]["momentum"] == 0.3
    assert layers(network)["norm"]["eps"] == 0.125
    assert not losses(network)


def test_a_section_of_a_node_replaces_the_definition(tmp_path: Path) -> None:
    more = """
[onnx:Conv_def]
QWeight=SAT
QWeight.Range=15
ConfigSection=config
[config]
Solvers.LearningRate=0.5
[conv]onnx:Conv_def
QWeight.Range=255
[conv2]
ConfigSection=config
"""
    cells = small(tmp_path, more).cells
    assert cells["conv"].weight is not None
    assert cells["conv"].weight.n_steps == 255
    assert cells["conv"].solvers["conv.weight"]["lr"] == 0.5
    assert cells["conv2"].weight is None  # nothing is merged
    assert cells["conv2"].solvers["conv2.weight"]["lr"] == 0.5


QUANTIZED = """
[quantized]
ActivationFunction={function}
QAct=SAT
QAct.Range=15
QAct.Alpha=6
QActSolver=SGD
QActSolver.LearningRate=0.125
[act]quantized
"""


@pytest.mark.parametrize("function", ["Linear", "Rectifier"])
def test_a_section_of_a_function_replaces_it(tmp_path: Path, function: str) -> None:
    network = small(tmp_path, QUANTIZED.format(function=function))
    cell = network.cells["act"]
    assert cell.layers == {"act_qact": {"type": "relu", "input": "norm"}}
    assert cell.activation is not None
    assert cell.activation.arguments["alpha"] == 6
    assert cell.activation.arguments.get("dead_zeros", False) == (function == "Rectifier")
    assert cell.solvers == {"act_qact.alpha": {"lr": 0.125}}
    assert [file.stem for file in cell.files] == ["act_QAct_SAT_Alpha"]
    assert layers(network)["conv2"]["input"] == "act_qact"


def test_a_function_can_be_another_one(tmp_path: Path) -> None:
    made = layers(small(tmp_path, "[act]\nActivationFunction=Tanh\nActivationFunction.Alpha=2\n"))
    assert made["act_act"] == {"type": "tanh", "alpha": 2.0, "input": "norm"}
    made = layers(small(tmp_path, "[act]\nActivationFunction=Linear\n"))
    assert made["conv2"]["input"] == "norm"


def test_a_section_of_a_function_needs_one(tmp_path: Path) -> None:
    network = small(tmp_path, "[act]\nQAct=SAT\n")
    assert "[act], which has no ActivationFunction" in problems(network)


def test_functions_other_than_relu_may_have_sections(tmp_path: Path) -> None:
    clip = node("Clip", "x", "act", min=0.0, max=6.0)
    more = QUANTIZED.format(function="Linear")
    network = read(tmp_path, graph([clip], opset=6), more)
    assert list(network.cells["act"].layers) == ["act_qact"]  # nothing is left of the clipping


def test_a_bias_is_left_out(tmp_path: Path) -> None:
    network = small(tmp_path, "[onnx:Conv_def]\nConfigSection=config\n[config]\nNoBias=1\n")
    assert layers(network)["conv"]["bias"] is False
    assert "conv.bias" not in network.weights
    assert "conv.bias" not in network.cells["conv"].solvers
    assert losses(network)["[config] NoBias"] == "leaves out biases of the ONNX file"


def test_a_bias_is_added(tmp_path: Path) -> None:
    network = small(tmp_path, "[onnx:Conv_def]\nConfigSection=config\n[config]\nNoBias=0\n")
    assert "bias" not in layers(network)["conv2"]
    assert "conv2.bias" in network.cells["conv2"].solvers
    assert "conv2.bias" not in network.weights  # the filler draws it


def test_what_the_file_says_is_not_said_again(tmp_path: Path) -> None:
    more = """
[onnx:Conv_def]
KernelDims=9 9
KernelSize=9
Stride=5
NbOutputs=77
ActivationFunction=Tanh
QAct=SAT
QWeight=SAT
"""
    network = small(tmp_path, more)
    assert network.cells["conv"].shape == (4, 8, 8)
    assert list(network.cells["conv"].layers) == ["conv"]
    keys = ("KernelDims", "KernelSize", "Stride", "NbOutputs", "ActivationFunction", "QAct")
    assert losses(network).keys() == {f"[onnx:Conv_def] {key}" for key in keys}
    assert all(item.place.line > 15 for item in network.deviations if "Conv_def" in item.key)


def test_a_section_of_nothing_but_lost_keys_is_read(tmp_path: Path) -> None:
    lost = losses(small(tmp_path, "[onnx:Conv_def]\nKernelSize=9\nQAct=SAT\n"))
    assert "[onnx:Conv_def]" not in lost
    assert "[onnx:Conv_def] KernelSize" in lost


def test_one_line_is_lost_once(tmp_path: Path) -> None:
    more = "[onnx:Conv_def]\nQWeightSolver.LearningRate=1\n"
    more += "QWeight=LSQ\nQWeight.Range=15\nConfigSection=config\n"
    more += "[config]\nSolvers.LearningRateDecay=0.5\n"
    keys = [item.key for item in small(tmp_path, more).deviations]
    assert keys.count("[onnx:Conv_def] QWeightSolver.LearningRate") == 1
    solver = "QWeightSolver=SGD\nQWeightSolver.PolyakMomentum=1\n[config]"
    keys = [item.key for item in small(tmp_path, more.replace("[config]", solver)).deviations]
    assert [key for key in keys if "Polyak" in key] == [
        "[onnx:Conv_def] QWeightSolver.PolyakMomentum"
    ]
    assert keys.count("[config] Solvers.LearningRateDecay") == 1


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("[cnov2]\nQWeight=SAT", "Did you mean 'conv2'?"),
        ("[onnx:conv2]\nConfigSection=c\n[c]\nNoBias=1", "its name alone: [conv2]"),
        ("[onnx:Pool_def]\nConfigSection=c\n[c]\n", ""),
        ("[onnx:Rectifier_def]\nActivationFunction=Linear", "onnx:Conv_def"),
        ("[onnx:Dropout_def]\nConfigSection=c\n[c]\nDropout=0.1", "onnx:Conv_def"),
        ("[flat]\nActivationFunction=Linear", "a Flatten node takes no section"),
    ],
)
def test_sections_that_no_node_reads(tmp_path: Path, section: str, expected: str) -> None:
    network = small(tmp_path, f"{section}\n")
    name = section.partition("\n")[0]
    assert not network.problems
    if expected:
        assert expected in losses(network)[name]
    else:
        assert name not in losses(network)


def test_config_sections_of_other_cells_are_no_sections_of_nodes(tmp_path: Path) -> None:
    more = """
[fc3]
Input=fc
Type=Fc
NbOutputs=10
ConfigSection=common
[fc3.Target]
[common]
Solvers.LearningRate=0.5
"""
    assert not losses(small(tmp_path, more))


# -- how cells of the .ini and of the file meet --------------------------------------------------


def test_ignore_leaves_out_the_end(tmp_path: Path) -> None:
    nodes = [*SMALL, node("Squeeze", "fc", "sq"), node("Identity", "sq", "id")]
    nodes.append(node("Softmax", "id", "soft"))
    more = "Ignore=fc soft\n" + TRANSFER.format(name="pool")
    network = read(tmp_path, graph(nodes, NUMBERS), more)
    assert list(network.cells) == ["conv", "norm", "act", "conv2", "pool", "new"]
    assert layers(network)["new"]["input"] == "pool"
    assert [target.cell for target in network.targets] == ["new"]


TRANSFER = """
[new]
Input={name}
Type=Fc
NbOutputs=7
[new.Target]
"""


def test_ignore_leaves_out_what_is_read(tmp_path: Path) -> None:
    assert "'norm', which Ignore leaves out" in problems(small(tmp_path, "Ignore=norm\n"))
    network = small(tmp_path, "Ignore=pol\n")
    assert "Did you mean 'pool'?" in losses(network)["[onnx] Ignore"]


def test_a_function_is_read_by_its_own_name_too(tmp_path: Path) -> None:
    network = small(tmp_path, TRANSFER.format(name="act"))
    assert layers(network)["new"]["input"] == "act_act"


def test_vectors_are_read_by_name(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w b", "conv"), node("Flatten", "conv", "flat")]
    network = read(tmp_path, graph(nodes, NUMBERS), TRANSFER.format(name="flat"))
    assert network.cells["flat"].shape == (4 * 6 * 6, 1, 1)
    assert network.cells["new"].parameters == 4 * 6 * 6 * 7 + 7


def test_a_softmax_at_the_end_is_trained_with_cross_entropy(tmp_path: Path) -> None:
    nodes = [*SMALL, node("Softmax", "fc", "soft")]
    model = graph(nodes, NUMBERS)
    network = read(tmp_path, model, "[soft.Target]\n")
    (target,) = network.targets
    assert target.cell == "soft"
    assert target.loss["_target_"] == "qatlab.training.loss.CrossEntropy"
    assert network.cells["soft"].with_loss == "softmax"


def test_names_of_files_are_compared(tmp_path: Path) -> None:
    assert not small(tmp_path).notices
    text = (tmp_path / "model.ini").read_text().replace("model.onnx", "${N2D2_MODELS}/a/b.onnx")
    (tmp_path / "model.ini").write_text(text)
    network = understand(str(tmp_path / "model.ini"), onnx=str(tmp_path / "model.onnx"))
    assert network.notices == ["[onnx] names the ONNX file 'b.onnx': 'model.onnx' was read."]


def test_size_of_the_images(tmp_path: Path) -> None:
    text = problems(small(tmp_path, shape=(1, 3, 9, 9)))
    assert "takes 3x9x9, and the .ini gives it 3x8x8" in text
    assert not small(tmp_path, "IgnoreInputSize=1\n", shape=(1, 3, 9, 9)).problems
    assert not small(tmp_path, shape=("N", 3, "H", "W")).problems
    assert "5 dimensions" in problems(small(tmp_path, shape=(1, 3, 8, 8, 8)))


def test_vectors_as_images(tmp_path: Path) -> None:
    model = graph([node("MatMul", "x w", "y")], {"w": floats(192, 5)}, ("N", 192))
    network = read(tmp_path, model)
    assert layers(network)["y"] == {
        "type": "linear",
        "channels": 5,
        "bias": False,
        "input": "image",
    }


def test_keys_of_the_section(tmp_path: Path) -> None:
    network = small(tmp_path, "CNTK=1\nNbOutputs=3\n")
    assert "no such key" in losses(network)["[onnx] NbOutputs"]
    assert "[onnx] CNTK" not in losses(network)
    assert "Transpose=1" in problems(small(tmp_path, "Transpose=1\n"))


def test_as_many_inputs_as_parents(tmp_path: Path) -> None:
    text = problems(small(tmp_path, "Input=sp,env\n"))
    assert "has 2 inputs, the ONNX file 1: 'x'" in text
    assert "Input=conv9 is not a cell before it. Acc" in problems(small(tmp_path, "Input=conv9\n"))


def test_names_that_meet(tmp_path: Path) -> None:
    more = "[pool]\nInput=sp\nType=Fc\nNbOutputs=2\n"
    assert "a name that another cell has" in problems(small(tmp_path, more))
