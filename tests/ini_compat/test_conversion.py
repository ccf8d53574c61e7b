"""A network as an experiment: outputs, losses, initial weights, schedule."""

from __future__ import annotations

from pathlib import Path

import projects
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from projects import FC, QUANTIZED, converted, project, read

from ini_compat.convert import experiment, phase
from ini_compat.errors import IniError, Place
from ini_compat.network import Node
from ini_compat.solver_groups import solver_groups
from qatlab.models import LayerGraph

PLACE = Place("model.ini", 1)

# -- outputs and losses --------------------------------------------------------------------------

SOFTMAX = "[softmax]\nInput=fc\nType=Softmax\nNbOutputs=10\nWithLoss=1\n"
CONV = "[{}]\nInput={}\nType=Conv\nKernelSize=3\nPadding=1\nNbOutputs=4\n"


def options(content: Node) -> dict[str, str]:
    return {
        k.removeprefix("override /"): v for line in content["defaults"] for k, v in line.items()
    }


def test_a_softmax_with_loss_is_left_to_the_loss(tmp_path: Path) -> None:
    content, network = converted(tmp_path, project(FC + SOFTMAX, target="[softmax.Target]\n"))
    assert content["model"]["outputs"] == ["fc"]
    assert list(content["model"]["layers"]) == ["fc"]
    assert content["loss"] == {"_target_": "qatlab.training.loss.CrossEntropy"}
    assert options(content)["loss"] == "cross_entropy"
    assert network.deviations == []


def test_a_softmax_that_another_layer_reads_stays(tmp_path: Path) -> None:
    after = "[again]\nInput=softmax\nType=Fc\nNbOutputs=10\n[again.Target]\n"
    text = project(FC + SOFTMAX + after, target="[softmax.Target]\n")
    content, _ = converted(tmp_path, text)
    assert sorted(content["model"]["outputs"]) == ["again", "fc"]
    assert list(content["model"]["layers"]) == ["fc", "softmax", "again"]


def test_a_softmax_without_loss_is_a_layer(tmp_path: Path) -> None:
    text = project(FC + SOFTMAX.replace("=1\n", "=0\n"), target="[softmax.Target]\n")
    text = text.replace("NbOutputs=0", "NbOutputs=10")
    content, _ = converted(tmp_path, text)
    assert content["model"]["outputs"] == ["softmax"]
    assert content["loss"] == {"_target_": "qatlab.training.loss.SquaredError"}
    assert options(content)["loss"] == "squared_error"


@pytest.mark.parametrize(
    "line",
    ["GroupSize=5\n", "ActivationFunction=Tanh\n", "ActivationFunction=Linear\nQAct=SAT\n"],
)
def test_a_loss_that_is_no_cross_entropy_is_refused(tmp_path: Path, line: str) -> None:
    network = read(tmp_path, project(FC + SOFTMAX + line, target="[softmax.Target]\n"))
    assert network.problems == []
    with pytest.raises(IniError, match="WithLoss=1 is supported for a softmax over all channels"):
        experiment(network)


def test_a_logistic_with_loss(tmp_path: Path) -> None:
    cells = FC + "ActivationFunction=LogisticWithLoss\n"
    content, _ = converted(tmp_path, project(cells, target="[fc.Target]\nTargetValue=0.9\n"))
    assert content["loss"]["_target_"] == "qatlab.training.loss.LogisticCrossEntropy"
    assert options(content)["loss"] == "logistic_cross_entropy"
    assert instantiate(content["loss"]).target_value == 0.9


def test_several_targets(tmp_path: Path) -> None:
    two = FC + FC.replace("[fc]", "[other]") + SOFTMAX
    text = project(two, target="[other.Target]\n[softmax.Target]\n")
    content, _ = converted(tmp_path, text)
    assert content["model"]["outputs"] == ["other", "fc"]  # the first is the primary one
    assert content["loss"] == {
        "_target_": "qatlab.training.loss.Several",
        "losses": [
            {"_target_": "qatlab.training.loss.SquaredError"},
            {"_target_": "qatlab.training.loss.CrossEntropy"},
        ],
    }
    assert options(content)["loss"] == "several"


@pytest.mark.parametrize("first", ["softmax", "fc"])
def test_targets_of_the_same_outputs(tmp_path: Path, first: str) -> None:
    targets = "[softmax.Target]\n[softmax.Target-2]\n"
    if first == "fc":
        targets = "[fc.Target]\n[softmax.Target]\n"
    content, network = converted(tmp_path, project(FC + SOFTMAX, target=targets))
    assert content["model"]["outputs"] == ["fc"]
    assert "[softmax.Target] ignored: another target has the same outputs" in projects.losses(
        network
    )


def test_reconstruction(tmp_path: Path) -> None:
    cells = CONV.format("a", "sp").replace("NbOutputs=4", "NbOutputs=1")
    text = project(cells, target="[a.Target]\nDataAsTarget=1\n")
    content, _ = converted(tmp_path, text)
    assert content["loss"] == {"_target_": "qatlab.training.loss.Reconstruction"}
    assert options(content)["loss"] == "reconstruction"


def test_cells_that_no_target_depends_on_are_left_out(tmp_path: Path) -> None:
    cells = CONV.format("a", "sp") + CONV.format("b", "a") + CONV.format("c", "a")
    text = project(cells + FC.replace("Input=sp", "Input=b"))
    content, network = converted(tmp_path, text)
    assert list(content["model"]["layers"]) == ["a", "b", "fc"]
    assert "[c] ignored: no target depends on it" in projects.losses(network)
    assert [name for name in network.cells] == ["a", "b", "fc"]
    LayerGraph(**content["model"])  # which would refuse a layer that nobody reads
    assert solver_groups(network, 1) == {"main": {"parameters": "*", "lr": 0.01}}


def test_a_pool_is_kept_for_what_undoes_it(tmp_path: Path) -> None:
    window = "PoolSize=2\nStride=2\nPooling=Max\nNbOutputs=1\nMapping.Size=1\n"
    cells = "".join(f"[{name}]\nInput=sp\nType=Pool\n{window}" for name in ("p", "q"))
    cells += f"[x]\nInput=q\nType=Unpool\nArgMax=p\n{window}"
    content, network = converted(tmp_path, project(cells + FC.replace("Input=sp", "Input=x")))
    assert list(content["model"]["layers"]) == ["p", "q", "x", "fc"]
    assert not any(item.key == "[p]" for item in network.deviations)
    LayerGraph(**content["model"])


def test_each_option_and_each_class_exists(root: Path) -> None:
    losses = ("cross_entropy", "squared_error", "reconstruction", "several")
    for loss in (*losses, "logistic_cross_entropy"):
        assert (root / f"conf/loss/{loss}.yaml").is_file()
    for name in ("clamp_only", "quantize_only", "float_then_quantize"):
        assert (root / f"conf/schedule/{name}.yaml").is_file()
    for name in ("_images", "_image_files"):
        node = OmegaConf.load(root / f"conf/data/{name}.yaml")
        assert "source" not in node  # no key of it can show through
        assert node.transforms is None


# -- inputs and initial weights ------------------------------------------------------------------


def test_inputs_are_written_where_they_are_not_the_layer_above(tmp_path: Path) -> None:
    cells = CONV.format("a", "sp") + CONV.format("b", "sp") + CONV.format("c", "a,b")
    content, _ = converted(tmp_path, project(cells + FC.replace("Input=sp", "Input=c")))
    layers = content["model"]["layers"]
    assert [layers[name].get("input") for name in layers] == [None, "image", ["a", "b"], None]


def test_what_most_layers_start_from_is_said_once(tmp_path: Path) -> None:
    he = "WeightsFiller=HeFiller\nBiasFiller=ConstantFiller\nBiasFiller.Value=0.5\n"
    cells = CONV.format("a", "sp") + he + CONV.format("b", "a") + he
    content, _ = converted(tmp_path, project(cells + FC.replace("Input=sp", "Input=b")))
    model = content["model"]
    default = {"type": "normal", "mean": 0.0, "std": 0.05}
    assert model["weight_init"] == {"type": "he", "norm": "fan_in"}
    assert model["bias_init"] == {"type": "constant", "value": 0.5}
    starts = [(v.get("weight_init"), v.get("bias_init")) for v in model["layers"].values()]
    assert starts == [(None, None), (None, None), (default, default)]


# -- schedule ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "schedule", "counts"),
    [
        ("", "float_then_quantize", {"float_epochs": 7, "quantize_epochs": 0}),
        ("QWeight=SAT\n", "quantize_only", {"quantize_epochs": 7}),
        ("QAct=SAT\n", "quantize_only", {"quantize_epochs": 7}),
        ("QWeight=LSQ\nQAct=LSQ\n", "quantize_only", {"quantize_epochs": 7}),
        ("QWeight=SAT\nQWeight.ApplyQuantization=0\n", "clamp_only", {"clamp_epochs": 7}),
        (
            "QWeight=SAT\nQWeight.ApplyQuantization=0\nQAct=SAT\n",
            *("quantize_only", {"quantize_epochs": 7}),
        ),
    ],
)
def test_the_phase_that_the_file_describes(
    tmp_path: Path, lines: str, schedule: str, counts: dict[str, int]
) -> None:
    content, _ = converted(tmp_path, project(QUANTIZED.format(lines)), epochs=7)
    assert options(content)["schedule"] == schedule
    assert content["schedule"] == counts
    assert phase(content) == next(iter(counts)).removesuffix("_epochs")
    weight = content.get("quant", {}).get("weight") or {}
    assert weight.get("clamp_only", False) is (lines.count("\n") == 3)


@pytest.mark.parametrize(
    ("policy", "epochs", "expected"),
    [
        ("", None, 100),
        ("", 3, 3),
        ("Solvers.LearningRatePolicy=PolyDecay\nSolvers.MaxIterations=12000\n", None, 20),
        ("Solvers.LearningRatePolicy=PolyDecay\nSolvers.MaxIterations=12000\n", 3, 3),
        ("Solvers.LearningRatePolicy=CosineDecay\nSolvers.MaxIterations=1800000\n", None, 30),
        (
            "Solvers.LearningRatePolicy=CosineDecay\nSolvers.MaxIterations=1800000\n"
            "BiasSolver.MaxIterations=600000\n",
            *(None, 30),
        ),
    ],
)
def test_how_long_the_training_lasts(
    tmp_path: Path, policy: str, epochs: int | None, expected: int
) -> None:
    text = project(f"{FC}ConfigSection=c\n[c]\nSolvers.LearningRate=0.1\n{policy}")
    content, network = converted(tmp_path, text, epochs)
    assert content["schedule"]["float_epochs"] == expected
    guessed = "the file does not say how long to train: 100 epochs are taken; --epochs N sets it"
    assert (guessed in network.notices) == (expected == 100)


def test_gradients_of_several_batches(tmp_path: Path) -> None:
    text = project(f"{FC}ConfigSection=c\n[c]\nSolvers.IterationSize=4\n")
    content, _ = converted(tmp_path, text)
    assert content["trainer"] == {"accumulate_grad_batches": 4}
    assert "trainer" not in converted(tmp_path, project())[0]


@pytest.mark.parametrize(("batch", "size", "told"), [(1, 1, True), (2, 1, False), (1, 2, False)])
def test_a_normalisation_of_single_numbers(
    tmp_path: Path, batch: int, size: int, told: bool
) -> None:
    cells = (
        f"[a]\nInput=sp\nType=Conv\nKernelSize={29 - size}\nNbOutputs=4\n"
        "[bn]\nInput=a\nType=BatchNorm\nNbOutputs=4\n[fc]\nInput=bn\nType=Fc\nNbOutputs=10\n"
    )
    sp = f"[sp]\nSizeX=28\nSizeY=28\nBatchSize={batch}\n"
    _, network = converted(tmp_path, project(cells, sp=sp), epochs=1)
    assert any("[bn] normalises one number" in text for text in network.notices) is told
