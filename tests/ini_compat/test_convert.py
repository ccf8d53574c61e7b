"""A network as an experiment: outputs, losses, schedules, quantizers, solvers."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import projects
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from projects import FC, project, read
from torch import nn

from ini_compat.build import understand
from ini_compat.convert import experiment, phase
from ini_compat.errors import IniError, Place
from ini_compat.network import Cell, Data, Network, Node, Quantizer, bits_node
from ini_compat.quant_rules import CLASSES, PLAIN, quant_node
from ini_compat.report import experiment_text
from ini_compat.solver_groups import patterns, solver_groups
from qatlab import quant
from qatlab.models import LayerGraph
from qatlab.quant import Rule, quantize
from qatlab.quant.rules import Target, resolve
from qatlab.training.parameter_group import ParameterGroup
from qatlab.training.parameter_solver import ParameterSolver

PLACE = Place("model.ini", 1)

# -- outputs and losses -----------------------------------------------------------------------

SOFTMAX = "[softmax]\nInput=fc\nType=Softmax\nNbOutputs=10\nWithLoss=1\n"
CONV = "[{}]\nInput={}\nType=Conv\nKernelSize=3\nPadding=1\nNbOutputs=4\n"


def converted(folder: Path, text: str, epochs: int | None = None) -> tuple[Node, Network]:
    network = read(folder, text)
    assert network.problems == []
    return experiment(network, epochs), network


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
    assert network.losses == []


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


# -- inputs and initial weights ----------------------------------------------------------------


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


# -- schedule ---------------------------------------------------------------------------------

QUANTIZED = (
    "[conv]\nInput=sp\nType=Conv\nKernelSize=3\nNbOutputs=4\nActivationFunction=Linear\n{}"
    "[fc]\nInput=conv\nType=Fc\nNbOutputs=10\n"
)


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
    guessed = "the file does not tell how long to train: 100 epochs; --epochs N tells it"
    assert (guessed in network.notices) == (expected == 100)


@pytest.mark.parametrize(
    ("images", "batch", "over", "epochs", "settles"),
    [
        (1000, 100, 30.0, 30, True),
        (1000, 100, 30.1, 30, True),  # one update in all: what a division rounds off
        (1000, 100, 30.2, 30, False),
        (1050, 100, 30 * 10.5 / 11, 30, True),  # the file counts 10.5 batches, and here are 11
        (1050, 100, 29 * 10.5 / 11, 30, False),
        (1000, 100, 10.0, 30, False),
        (None, 100, 30.0, 30, True),
        (None, 100, 29.9, 30, False),
    ],
)
def test_a_decay_as_long_as_the_schedule_follows_it(
    images: int | None, batch: int, over: float, epochs: int, settles: bool
) -> None:
    policy = {"_target_": "qatlab.training.lr_policy.polynomial", "power": 1.0, "over": over}
    cell = Cell("fc", "Fc", ["image"], PLACE, solvers={"fc.weight": {"lr": 1, "lr_policy": policy}})
    data = Data({}, (1, 1, 1), batch, images)
    groups = solver_groups(Network("n", "n.ini", data, {"fc": cell}), epochs)
    assert groups["main"]["lr_policy"]["over"] == (None if settles else over)


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


# -- quantizers -------------------------------------------------------------------------------


def test_what_is_left_out_is_what_qatlab_takes() -> None:
    for path in CLASSES.values():
        parameters = inspect.signature(getattr(quant, path.rpartition(".")[2])).parameters
        for key, value in PLAIN.items():
            if key in parameters and key != "bits":
                assert parameters[key].default == value, (path, key)


SAT_WEIGHTS = st.builds(
    lambda n_steps, more: Quantizer("SAT", bits_node(n_steps) | more),
    st.sampled_from([1, 2, 3, 14, 15, 255]),
    st.fixed_dictionaries(
        {},
        optional={
            "grid": st.sampled_from(["full_range", "symmetric"]),
            "scaling": st.just(True),
            "clamp_only": st.just(True),
        },
    ),
)
LSQ_WEIGHTS = st.builds(
    lambda n_steps, more: Quantizer("LSQ", bits_node(n_steps) | {"gradient_scale": "n2d2"} | more),
    st.sampled_from([2, 15, 255]),
    st.fixed_dictionaries({}, optional={"step_size": st.sampled_from([0.1, 1e-16, 1e16])}),
)
SAT_ACTIVATIONS = st.builds(
    lambda n_steps, alpha, more: Quantizer("SAT", bits_node(n_steps) | {"alpha": alpha} | more),
    st.sampled_from([1, 14, 15, 255]),
    st.sampled_from([1.0, 6.0, 1e-16, 1e16, 0.1]),
    st.fixed_dictionaries({}, optional={"dead_zeros": st.just(True)}),
)
LSQ_ACTIVATIONS = LSQ_WEIGHTS
NAMES = st.from_regex(r"(conv|bn|fc|x_qact)[0-9_]{0,3}", fullmatch=True)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks whose cells have quantizers of one method, or none, and treacherous names."""
    weights = draw(st.sampled_from([SAT_WEIGHTS, LSQ_WEIGHTS]))
    activations = draw(st.sampled_from([SAT_ACTIVATIONS, LSQ_ACTIVATIONS]))
    taken: set[str] = set()
    network = Network("n", "n.ini", Data({}, (1, 1, 1), 1))
    for name in draw(st.lists(NAMES, min_size=1, max_size=8, unique=True)):
        kind = draw(st.sampled_from(["conv", "linear", "deconv", "batch_norm", "relu"]))
        cell = Cell(name, "Conv", ["image"], PLACE, layers={name: {"type": kind}})
        taken.add(name)
        if kind in ("conv", "linear"):
            cell.weight = draw(st.none() | weights)
        site = f"{name}_qact"
        if site not in taken and draw(st.booleans()):
            cell.layers[site] = {"type": "relu"}
            cell.site, cell.activation = site, draw(activations)
        taken |= cell.layers.keys()
        network.cells[name] = cell
    return network


def decided(part: str, node: Node, targets: list[str]) -> dict[str, Node | None]:
    """Return the arguments that qatlab makes each quantizer of."""
    if not node.get(part):
        return dict.fromkeys(targets)
    rules = [Rule.parse(key, rule) for key, rule in node["rules"].items()]
    decisions = resolve(part, [Target(name, "Module") for name in targets], rules)
    common = {key: value for key, value in node[part].items() if key != "_target_"}
    return {
        name: None if d.arguments is None else {**PLAIN, **common, **d.arguments}
        for name, d in zip(targets, decisions, strict=True)
    }


@settings(max_examples=150, deadline=None)
@given(networks())
def test_each_layer_and_site_has_the_quantizer_of_its_cell(network: Network) -> None:
    cells = network.cells.values()
    layers = {name: layer["type"] for cell in cells for name, layer in cell.layers.items()}
    weights = [name for name, kind in layers.items() if kind in ("conv", "linear")]
    # qatlab's sites: activation functions, and tensors that reach weight layers in float.
    sites = [name for name, kind in layers.items() if kind == "relu"]
    sites += [f"{name}_site" for name, kind in layers.items() if kind != "relu"]
    node, ends_in = quant_node(network)

    own: dict[str, dict[str, Quantizer | None]] = {
        "weight": {name: cell.weight for cell in cells for name in cell.layers},
        "activation": {cell.site: cell.activation for cell in cells if cell.site},
    }
    for part, targets in (("weight", weights), ("activation", sites)):
        if not targets and part == "weight":
            assert not node.get("weight")
        for name, arguments in decided(part, node, targets).items():
            quantizer = own[part].get(name)
            if quantizer is None:
                assert arguments is None, name
                continue
            expected = {**PLAIN, **quantizer.arguments}
            if ends_in == "clamp":
                assert expected["clamp_only"]  # the phase says it
                expected["clamp_only"] = False
            assert arguments == expected, name
            assert node[part]["_target_"] == CLASSES[part, quantizer.method]
    quantized = any(own["activation"].values()) or any(own["weight"][name] for name in weights)
    assert (ends_in == "float") == (not quantized) == (node == {})


def test_each_rule_has_a_name_of_its_own() -> None:
    network = Network("n", "n.ini", Data({}, (1, 1, 1), 1))
    for number, alpha in enumerate((1.0, 1.0, 1.0, 1e16, 1e-16)):
        site = f"a{number}_qact"
        activation = Quantizer("SAT", {"bits": 4, "alpha": alpha})
        network.cells[site] = Cell(
            *(site, "Conv", ["image"], PLACE, {site: {"type": "relu"}}),
            activation=activation,
            site=site,
        )
    rules = quant_node(network)[0]["rules"]
    assert rules["activation_alpha_1e_16"]["activation"] == {"alpha": 1e16}
    assert rules["activation_alpha_1e_16_2"]["activation"] == {"alpha": 1e-16}


def test_one_glob_names_all_sites_unless_it_names_more(tmp_path: Path) -> None:
    content, _ = converted(tmp_path, project(QUANTIZED.format("QAct=SAT\n")))
    assert content["quant"]["rules"]["qact"]["name"] == "*_qact"
    treacherous = "[b_qact]\nInput=conv\nType=Activation\nActivationFunction=Rectifier\n"
    cells = QUANTIZED.format("QAct=SAT\n").replace("[fc]", treacherous + "[fc]")
    cells = cells.replace("[fc]\nInput=conv", "[fc]\nInput=b_qact")
    content, _ = converted(tmp_path, project(cells))
    assert "b_qact_act" in content["model"]["layers"]


def test_methods_cannot_be_mixed(tmp_path: Path) -> None:
    cells = QUANTIZED.format("QWeight=SAT\n") + "QWeight=LSQ\n"
    network = read(tmp_path, project(cells))
    assert network.problems == []
    with pytest.raises(IniError) as error:
        experiment(network)
    assert "[fc] has LSQ and [conv] has SAT for weights. Accepted: one method for all" in str(
        error.value
    )
    assert str(error.value).startswith(str(tmp_path / "model.ini"))
    apart = QUANTIZED.format("QWeight=SAT\nQAct=LSQ\n")  # of weights and activations they can
    content, _ = converted(tmp_path, project(apart))
    assert content["quant"]["weight"]["_target_"] == "qatlab.quant.SatWeight"
    assert content["quant"]["activation"]["_target_"] == "qatlab.quant.LsqActivation"


# -- solvers ----------------------------------------------------------------------------------

PARAMETERS = st.from_regex(
    r"(conv|bn|fc|inc)[0-9]{0,2}(_[0-9]x[0-9])?(_qact\.(alpha|step_size)|\.weight|\.bias"
    r"|\.weight_quantizer\.step_size)",
    fullmatch=True,
)
SETTINGS = st.sampled_from(
    [
        {"lr": 0.01},
        {"lr": 0.0},
        {"lr": 0.01, "momentum": 0.9},
        {"method": "adam", "lr": 0.01},
        {"lr": 0.01, "clamp": [None, 1.0]},
        {"lr": 0.01, "lr_policy": {"_target_": "qatlab.training.lr_policy.step", "every": 3.0}},
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(PARAMETERS, SETTINGS, min_size=1, max_size=25))
def test_each_parameter_has_the_settings_of_its_solver(chosen: dict[str, Node]) -> None:
    network = Network("n", "n.ini", Data({}, (1, 1, 1), 1))
    for parameter, node in chosen.items():
        cell = Cell(parameter, "Conv", ["image"], PLACE, solvers={parameter: node})
        network.cells[parameter] = cell
    groups = solver_groups(network, 10)
    made = {
        name: {k: v for k, v in node.items() if k != "lr_policy"} for name, node in groups.items()
    }
    members = ParameterSolver(made).members(list(chosen))  # which refuses patterns without a match
    for name, parameters in members.items():
        for parameter in parameters:
            assert {"parameters": groups[name]["parameters"], **chosen[parameter]} == groups[name]
    assert sorted(p for names in members.values() for p in names) == sorted(chosen)
    assert next(iter(groups)) == "main"  # which conf/solver/by_parameter.yaml has, too


@settings(max_examples=150, deadline=None)
@given(st.lists(PARAMETERS, min_size=1, max_size=30, unique=True), st.data())
def test_patterns_match_all_that_is_wanted_and_nothing_else(
    names: list[str], data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    globs = patterns(wanted, names)
    groups = {"rest": {"parameters": "*"}, "wanted": {"parameters": globs}}
    if set(wanted) == set(names):
        del groups["rest"]
    assert set(ParameterSolver(groups).members(names)["wanted"]) == set(wanted)
    assert len(globs) <= len(wanted)


def test_many_parameters_need_few_patterns() -> None:
    convs = [f"conv{i}_{j}.weight" for i in range(3) for j in range(3)]
    bns = [f"bn{i}_{j}.{last}" for i in range(3) for j in range(3) for last in ("weight", "bias")]
    assert patterns(bns, [*convs, *bns]) == ["*.bias", "bn*_*.weight"]
    assert patterns(convs, [*convs, *bns]) == ["conv*_*.weight"]
    alphas = [f"x{i}_qact.alpha" for i in range(9)]
    assert patterns(alphas, [*alphas, *convs, *bns]) == ["*_qact.alpha"]


# -- real files -------------------------------------------------------------------------------


def real_files() -> list[Path]:
    folder = Path(__file__).parents[3] / "shared/data/n2d2"
    return sorted(folder.rglob("*.ini"))


@cache
def real(path: Path) -> tuple[Network, Node | None]:
    network = understand(str(path))
    return network, None if network.problems else experiment(network)


@pytest.fixture(params=real_files(), ids=lambda path: path.stem)
def of_file(request: pytest.FixtureRequest) -> tuple[Network, Node]:
    """One of N2D2's own files, and its experiment."""
    network, content = real(request.param)
    if content is None:
        pytest.skip(str(network.problems[0]))
    return network, content


def network_of(content: Node) -> nn.Module:
    """Return qatlab's network; without memory where nothing is computed."""
    if "quant" not in content:
        with torch.device("meta"):
            return LayerGraph(**content["model"])
    model = LayerGraph(**content["model"])
    factories = (
        node and instantiate(node, _partial_=True)
        for node in (content["quant"]["weight"], content["quant"]["activation"])
    )
    rules = [Rule.parse(key, node) for key, node in content["quant"]["rules"].items()]
    example = torch.zeros(1, *content["model"]["input_shape"])
    return quantize(model, *factories, rules, example)[0]  # type: ignore[arg-type]


def test_some_files_are_converted(shared: Path) -> None:
    files = [path.stem for path in real_files() if real(path)[1] is not None]
    assert len(files) >= 14
    assert {"LeNet", "LeNet_4b", "cifar-10", "mnist-autoencoder", "VGG16"} <= set(files)


def test_the_text_is_read_as_the_experiment(of_file: tuple[Network, Node]) -> None:
    network, content = of_file
    read = OmegaConf.create(experiment_text(network, content, "command"))
    assert OmegaConf.to_container(read, resolve=True) == content


def test_qatlab_has_the_shapes_of_all_cells(of_file: tuple[Network, Node]) -> None:
    network, content = of_file
    with torch.device("meta"):
        shapes = LayerGraph(**content["model"]).shapes
    for cell in network.cells.values():
        if cell.layers:
            assert shapes[cell.output] == cell.shape, cell.name


def test_qatlab_makes_the_quantizers_of_all_cells(of_file: tuple[Network, Node]) -> None:
    network, content = of_file
    modules = dict(network_of(content).named_modules())
    clamped = content["schedule"].get("clamp_epochs")
    for cell in network.cells.values():
        for layer, node in cell.layers.items():
            made = getattr(modules.get(layer), "weight_quantizer", None)
            if cell.weight is None or node["type"] not in ("conv", "linear"):
                assert made is None, layer
                continue
            assert type(made).__name__ == f"{cell.weight.method.title()}Weight"
            assert made.n_steps == cell.weight.n_steps
            given = cell.weight.arguments
            if cell.weight.method == "SAT":
                assert made.grid == given.get("grid", "default")
                assert made.scaling == given.get("scaling", False)
                clamp_only = bool(given.get("clamp_only") and not clamped)
                assert made.describe().get("clamp_only", False) is clamp_only
        if cell.activation is not None:
            made = modules[cell.site]
            assert type(made).__name__ == f"{cell.activation.method.title()}Activation"
            assert made.n_steps == cell.activation.n_steps
            assert made.dead_zeros == cell.activation.arguments.get("dead_zeros", False)
            assert made.given == cell.activation.arguments.get("alpha", made.given)
    sites = {cell.site for cell in network.cells.values() if cell.site}
    quantizers = {n for n, m in modules.items() if type(m).__name__.endswith("tActivation")}
    assert quantizers == sites


def test_qatlab_trains_each_parameter_as_n2d2_does(of_file: tuple[Network, Node]) -> None:
    network, content = of_file
    model = network_of(content)
    own = {name: node for cell in network.cells.values() for name, node in cell.solvers.items()}
    assert own.keys() == {name for name, _ in model.named_parameters()}
    groups = content["solver"]["groups"]
    solver = ParameterSolver(instantiate(groups, _convert_="all"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    epochs = sum(content["schedule"].values())
    for group in solver.build(model).param_groups:
        for parameter in group["params"]:
            node = own[names[id(parameter)]]
            expected = ParameterGroup.of("x", instantiate({"parameters": "*", **node}))
            for key, value in expected.for_optimizer().items():
                assert group[key] == value
            for epoch in (0.0, 0.3 * epochs, 0.999 * epochs):
                factor = expected.lr_policy(epoch, epochs)
                assert solver.lr_factor(epoch, epochs, group["name"]) == pytest.approx(
                    factor, abs=0.003
                )


def test_the_same_groups_serve_the_float_network(of_file: tuple[Network, Node]) -> None:
    _, content = of_file
    with torch.device("meta"):
        model = LayerGraph(**content["model"])
    solver = ParameterSolver(instantiate(content["solver"]["groups"], _convert_="all"))
    trained = [p for group in solver.build(model).param_groups for p in group["params"]]
    assert len(trained) == len(list(model.parameters()))


def test_a_deep_network(tmp_path: Path) -> None:
    network = read(tmp_path, projects.deep(9))
    assert network.problems == []
    content = experiment(network)
    assert len(content["model"]["layers"]) == 9 * 18 + 1
    groups = content["solver"]["groups"]
    assert {name: node["parameters"] for name, node in groups.items()} == {
        "main": "*",
        "norms": ["*.bias", "*_bn.weight"],
        "clip_values": "*_qact.alpha",
    }


def test_any_keys_can_be_given_on_the_command_line(of_file: tuple[Network, Node]) -> None:
    _, content = of_file
    for part in ("weight", "activation"):
        node: Any = content.get("quant", {}).get(part)
        if node:
            assert {"bits", "n_steps"} <= node.keys()  # so that a sweep needs no +
