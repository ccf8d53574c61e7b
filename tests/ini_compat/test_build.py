"""The order of cells, their names and parents, computed values, and what is refused by name."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from projects import FC, HEAD, MNIST, SP, losses, problems, project, read
from torch import fx, nn

from ini_compat.build import understand
from ini_compat.cells import cell_types
from ini_compat.cells.cell_types import TYPES
from ini_compat.cells.layer_names import RESERVED, Names
from ini_compat.convert import experiment
from ini_compat.errors import IniError
from ini_compat.network import Network
from ini_compat.order import in_order
from qatlab.models import LayerGraph
from qatlab.quant import SatActivation, SatWeight, quantize


def fc(name: str, parent: str = "sp", *lines: str) -> str:
    return "\n".join([f"[{name}]\nInput={parent}\nType=Fc\nNbOutputs=10", *lines, ""])


def built(folder: Path, cells: str, target: str = "[fc.Target]\n") -> Network:
    network = read(folder, project(cells, target=target))
    assert network.problems == []
    return network


def graph(network: Network) -> LayerGraph:
    """Return the network that qatlab makes of the experiment."""
    return LayerGraph(**experiment(network)["model"])


# -- order ------------------------------------------------------------------------------------


def test_cells_come_by_depth_and_then_as_in_the_file(tmp_path: Path) -> None:
    text = fc("d", "c") + fc("b", "a") + fc("c", "sp") + fc("a", "sp") + fc("e", "a,c")
    network = built(tmp_path, text, "[e.Target]\n")
    # Depth 1: c, a; depth 2: d, b, e, each in the order of the file.
    assert list(network.cells) == ["c", "a", "d", "b", "e"]
    assert network.cells["e"].inputs == ["a", "c"]
    assert network.cells["d"].inputs == ["c"]


def rounds(inputs: dict[str, set[str]]) -> list[str]:
    """Return the order that the specification describes."""
    placed: list[str] = []
    while True:
        ready = [n for n, parents in inputs.items() if n not in placed and parents <= set(placed)]
        if not ready:
            return placed
        placed += ready


@given(
    st.dictionaries(
        *(st.integers(0, 12).map(str), st.sets(st.integers(0, 12).map(str), max_size=3)),
        max_size=13,
    )
)
def test_any_order(inputs: dict[str, set[str]]) -> None:
    known = {name: parents & inputs.keys() for name, parents in inputs.items()}
    ordered, circular = in_order(known)
    assert ordered == rounds(known)
    assert circular == [name for name in known if name not in ordered]


def test_long_chains_end_soon(tmp_path: Path) -> None:
    count = 3000
    cells = "".join(
        f"[c{i}]\nInput={f'c{i - 1}' if i else 'sp'}\nType=Activation\nNbOutputs=1\n"
        for i in reversed(range(count))
    )
    start = time.perf_counter()
    network = built(tmp_path, cells, f"[c{count - 1}.Target]\nDataAsTarget=1\n")
    assert time.perf_counter() - start < 5
    assert list(network.cells) == [f"c{i}" for i in range(count)]


def test_circles_are_reported_and_the_other_cells_listed(tmp_path: Path) -> None:
    text = fc("a", "b") + fc("b", "a") + fc("fc") + fc("after", "a")
    network = read(tmp_path, project(text))
    assert problems(network).endswith(
        "model.ini:8: cells wait for each other in a circle: a, b, after"
    )
    assert network.cells["fc"].shape == (10, 1, 1)
    assert network.cells["a"].shape is network.cells["after"].shape is None
    assert network.cells["a"].type == "Fc"
    assert "circle: a" in problems(read(tmp_path, project(fc("a", "a") + FC)))


# -- parents ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sp", "env", "cenv"])
def test_three_names_of_the_environment(tmp_path: Path, name: str) -> None:
    assert built(tmp_path, fc("fc", name)).cells["fc"].inputs == ["image"]


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ("a, b", "[fc] Input has a space beside 'b', which N2D2 takes as part of the name: remove"),
        ("a ,b", "[fc] Input has a space beside 'a'"),
        ("a, sp", "[fc] Input has a space beside 'sp'"),
        ("aa", "[fc] Input=aa is not a cell of the file. Did you mean 'a'?"),
        ("spp", "Did you mean 'sp'?"),
        ("def", "[fc] Input=def is not a cell of the file."),
        ("", "[fc] Input= is not a cell of the file."),
        ("a,", "[fc] Input= is not a cell of the file."),
        ("[x]Y", "Input=[x]Y is not a cell"),
        ("${X}", "Input=${X} is not a cell"),
        ("$(1/0)", "division"),
    ],
)
def test_parents_that_are_no_cells(tmp_path: Path, parent: str, expected: str) -> None:
    text = "[def]\nType=Fc\n" + fc("a") + fc("b") + fc("fc", parent)
    network = read(tmp_path, project(text))
    (problem,) = network.problems
    assert expected in problem.message
    assert problem.place is not None
    assert problem.place.line == 19
    assert network.cells["a"].shape == (10, 1, 1)


def test_the_same_parent_may_come_twice(tmp_path: Path) -> None:
    network = built(tmp_path, fc("a") + fc("fc", "a,a"))
    assert network.cells["fc"].files[0].shape == (10, 20)
    graph(network)


# -- names ------------------------------------------------------------------------------------


ATTRIBUTES = sorted({*dir(nn.Module()), *dir(fx.GraphModule(nn.Module(), fx.Graph())), "image"})
SPELLINGS = [
    *(name for name in ATTRIBUTES if name not in ("image", "sp", "env", "cenv")),
    *("conv1.1", "conv1_1", "conv1-1", "1", "2a", "_", "__init__", "a b", "é", "ünï", "日本", "µ"),
    *("class", "def", "None", "lambda", "match", "self", "print", "input_shape", "layers", "add"),
    *("torch", "nn", "inf", "nan", "device", "operator", "math", "getattr", "x", "input", "output"),
    *(
        "conv1_act",
        "conv1_qact",
        "conv1_crop",
        "x.weight",
        "a/b",
        "a:b",
        "a(b)",
        "*",
        "?",
        "T" * 300,
    ),
]
NAMES = list(dict.fromkeys(SPELLINGS))


def test_layer_graphs_accept_every_name(tmp_path: Path) -> None:
    text = "".join(
        f"[{name}]\nInput=sp\nType=Fc\nNbOutputs=1\nActivationFunction=Linear\nQAct=SAT\nQWeight=SAT\n"
        for name in NAMES
    )
    parents = ",".join(NAMES)
    text += f"[sum]\nInput={parents}\nType=ElemWise\nOperation=Sum\nNbOutputs=1\n"
    network = built(tmp_path, text, "[sum.Target]\n")
    assert set(NAMES) <= network.cells.keys()
    content = experiment(network)
    model = LayerGraph(**content["model"])
    sizes = {cell.output: cell.shape for cell in network.cells.values()}
    assert {name: model.shapes[name] for name in sizes} == sizes
    image = torch.zeros(1, 1, 28, 28)
    factories = (partial(SatWeight, bits=8), partial(SatActivation, bits=8, alpha=1.0))
    converted, _ = quantize(model, *factories, [], image)
    assert converted(image).shape == (1, 1)


def test_what_this_torch_has_is_reserved() -> None:
    names = Names()
    model = LayerGraph([1, 2, 2], {"a": {"type": "identity"}})
    taken = {*dir(model), *dir(fx.GraphModule(nn.Module(), fx.Graph()))} - {"a"}
    for name in taken:
        assert names.unique(name) not in taken
    assert all(name.isidentifier() for name in names.taken)
    assert len(names.taken) == len(taken)
    assert {name for name in taken if name.isidentifier() and name[0] != "_"} <= RESERVED


def test_names_that_would_be_the_same_get_numbers(tmp_path: Path) -> None:
    text = fc("a.1", "sp", "ActivationFunction=Rectifier") + fc("a_1") + fc("a-1") + fc("a_1_act")
    network = built(tmp_path, text + fc("fc", "a.1,a_1,a-1,a_1_act"))
    assert [list(cell.layers) for cell in network.cells.values()] == [
        *(["a_1", "a_1_act"], ["a_1_2"], ["a_1_3"], ["a_1_act_2"], ["fc"]),
    ]
    graph(network)
    names = Names()
    start = time.perf_counter()
    assert len({names.unique("é") for _ in range(10_000)}) == 10_000
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("name", ["image", "env", "cenv"])
def test_names_of_the_input_are_no_names_of_cells(tmp_path: Path, name: str) -> None:
    network = read(tmp_path, project(fc(name) + fc("fc", name), target="[fc.Target]\n"))
    assert f"[{name}] is a name of the network's input: rename it" in problems(network)


# -- computed values --------------------------------------------------------------------------

CONV = "[a]\nInput=sp\nType=Conv\nKernelDims=3 5\nStride=2\nNbOutputs=6\n"


@pytest.mark.parametrize(
    ("key", "value"),
    [  # 28 x 28 images: width (28 - 3 + 2) // 2, height (28 - 5 + 2) // 2
        *(("_NbChannels", 1), ("_ChannelsWidth", 28), ("_ChannelsHeight", 28)),
        *(("_NbOutputs", 6), ("_OutputsWidth", 13), ("_OutputsHeight", 12)),
    ],
)
def test_later_cells_may_use_computed_values(tmp_path: Path, key: str, value: int) -> None:
    text = CONV + fc("fc", "a").replace("=10", f"=$([a]{key} + 1)")
    network = built(tmp_path, text)
    assert network.cells["fc"].shape == (value + 1, 1, 1)


def test_channels_of_several_parents_are_counted_together(tmp_path: Path) -> None:
    text = fc("a") + fc("b") + fc("c", "a,b") + fc("fc", "c").replace("=10", "=[c]_NbChannels")
    assert built(tmp_path, text).cells["fc"].shape == (20, 1, 1)


def test_values_are_not_there_before_they_are_computed(tmp_path: Path) -> None:
    text = fc("fc").replace("=10", "=[a]_NbOutputs") + fc("a")
    message = problems(read(tmp_path, project(text)))
    assert "'[a]_NbOutputs' is only known after the section [a] is built" in message
    # of the same depth, but later in the file: the other way round it is known
    assert built(tmp_path, fc("a") + fc("fc").replace("=10", "=[a]_NbOutputs"))


# -- what is refused --------------------------------------------------------------------------

REFUSED = {
    "LSTM": "recurrent networks",
    **dict.fromkeys(("ROIPooling", "RP", "Proposal", "Anchor", "ObjectDet"), "object detection"),
    **dict.fromkeys(("TargetBias", "Distance"), "it needs the label"),
    "Transformation": "images are transformed before the network only",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_cells_refused_by_name(tmp_path: Path, kind: str) -> None:
    odd = f"[odd]\nInput=a\nType={kind}\nNbOutputs=3\n"
    network = read(tmp_path, project(fc("a") + odd + fc("after", "odd") + fc("fc", "a")))
    (problem,) = network.problems
    assert problem.message.startswith(f"[odd] Type is {kind}, which is not supported here: ")
    assert REFUSED[kind] in problem.message
    assert problem.place is not None
    assert problem.place.line == 14
    shapes = {name: cell.shape for name, cell in network.cells.items()}
    assert shapes == {"a": (10, 1, 1), "odd": None, "fc": (10, 1, 1), "after": None}
    assert network.deviations == []


def test_a_refused_cell_is_named_behind_another_one(tmp_path: Path) -> None:
    cells = FC + "[lstm]\nInput=fc\nType=LSTM\n[roi]\nInput=lstm\nType=ROIPooling\n"
    told = problems(read(tmp_path, project(cells)))
    assert "[lstm] Type is LSTM" in told
    assert "[roi] Type is ROIPooling" in told


def test_every_type_is_read_or_refused() -> None:
    read_types = {
        *("Conv", "Deconv", "Fc", "Pool", "BatchNorm", "ElemWise", "Dropout", "Softmax", "LRN"),
        *("Padding", "Activation", "Scaling", "Resize", "Reshape", "Transpose", "Normalize"),
        *("Threshold", "Unpool", "FMP"),
    }
    assert TYPES.keys() == read_types
    assert cell_types.REFUSED.keys() == REFUSED.keys()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("Type=Fcc", "[x] Type=Fcc is not a cell. Did you mean 'Fc'? Accepted: Activation, "),
        ("", "the section [x] needs the key Type"),
        ("Type=Fc\nModel=Spike", "[x] Model=Spike is not supported here: spiking cells"),
        ("Type=Fc\nModel=CSpike_BP_CUDA", "is not supported here: spiking cells"),
        (
            "Type=Fc\nModel=Frames",
            "[x] Model=Frames is not a model of cells. Did you mean 'Frame'?",
        ),
        ("Type=Fc\nDataType=Float8", "Accepted: Float32, Float16, Float64"),
        ("Type=Fc\nNbOutputs=1000000000", "NbOutputs=1000000000 is wrong. Accepted: 1 to 10485"),
        ("Type=Fc\nConfigSection=none", "there is no section [none]"),
    ],
)
def test_cells_that_are_wrong(tmp_path: Path, lines: str, expected: str) -> None:
    network = read(tmp_path, project(f"[x]\nInput=sp\n{lines}\n{FC}"))
    assert len(network.problems) == 1
    assert expected in problems(network)
    assert network.cells["fc"].shape == (10, 1, 1)


def test_every_cell_that_is_wrong_is_reported(tmp_path: Path) -> None:
    text = fc("a").replace("=10", "=0") + fc("b", "none") + fc("c").replace("Fc", "FC") + FC
    network = read(tmp_path, project(text))
    assert [problem.place.line for problem in network.problems if problem.place] == [11, 13, 18]


def test_what_many_cells_share_is_reported_once(tmp_path: Path) -> None:
    text = fc("a", "sp", "ConfigSection=c") + fc("fc", "sp", "ConfigSection=c")
    network = read(tmp_path, project(f"{text}[c]\nNoBais=1\n"))
    assert len(network.problems) == 1
    assert network.cells["a"].shape is network.cells["fc"].shape is None


def test_many_keys_end_soon(tmp_path: Path) -> None:
    text = FC + "".join(f"Key{i}=1\n" for i in range(20_000))
    start = time.perf_counter()
    network = read(tmp_path, project(text))
    assert time.perf_counter() - start < 3
    assert len(network.deviations) == 20_000


# -- global keys ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("DefaultModel=Spike\n", "model.ini:1: DefaultModel=Spike is not supported here: spiking"),
        ("DefaultModel=RRAM\nProgramMethod(RRAM)=Ideal\n", "DefaultModel=RRAM is not supported"),
        ("DefaultModel=Frame_CUDa\n", "is not a model of cells. Did you mean 'Frame_CUDA'?"),
        ("DefaultModl=Frame\n", "DefaultModl stands before the first section and is unknown ther"),
        ("ProgramMethod=Ideal\n", "Accepted: DefaultModel, DefaultDataType"),
        ("InsertBatchNormAfterConv=1\n", "InsertBatchNormAfterConv=1 is not supported here: wri"),
        ("InsertBatchNormAfterConv=x\n", "Accepted: 0 or 1"),
        ("DefaultDataType=Int8\n", "Accepted: Float32"),
    ],
)
def test_global_keys_that_are_wrong(tmp_path: Path, head: str, expected: str) -> None:
    network = read(tmp_path, project(head=head))
    assert len(network.problems) == 1
    assert expected in problems(network)
    assert network.cells["fc"].shape == (10, 1, 1)


def test_global_keys(tmp_path: Path) -> None:
    head = "$X=1\nDefaultModel=Frame\nCheckWeightRange=0\nInsertBatchNormAfterConv=0\n"
    network = read(tmp_path, project(head=f"{head}ProgramMethod(PCM)=Ideal\n"))
    assert network.problems == []
    assert network.deviations == []
    text = project(f"{FC}DataType=Float64\n", head="DefaultDataType=Float16\n")
    reason = "networks compute in float32; trainer.precision chooses others"
    assert losses(read(tmp_path, text)).splitlines() == [
        f"DefaultDataType approximated: {reason}",
        f"[fc] DataType approximated: {reason}",
    ]


# -- what is left over ------------------------------------------------------------------------


def test_sections_that_nothing_uses_are_reported(tmp_path: Path) -> None:
    passive = "[def]\nNbOutputs=10\n[fc2] def\nInput=fc\nType=Fc\n[old]\nX=1\n[empty]\n"
    network = built(tmp_path, FC + passive)
    assert losses(network) == "[old] ignored: is used by nothing"
    assert network.deviations[0].place.line == 17


def test_sections_that_are_overridden_or_only_referred_to_are_used(tmp_path: Path) -> None:
    text = FC.replace("10", "[n]Count") + "ConfigSection=a,b\n[n]\nCount=10\n"
    network = built(tmp_path, f"{text}[a]\nNoBias=0\n[b]\nNoBias=1\n")
    assert network.deviations == []
    assert network.cells["fc"].layers["fc"]["bias"] is False


def test_a_file_without_cells(tmp_path: Path) -> None:
    network = read(tmp_path, HEAD + MNIST + SP)
    assert [problem.message for problem in network.problems] == [
        "the file has no cell: no section has an Input",
        "the file has no target, such as [softmax.Target], and N2D2 needs one",
    ]


def test_without_an_environment_cells_are_listed(tmp_path: Path) -> None:
    network = read(tmp_path, HEAD + FC + "[fc.Target]\n")
    assert "the file has no environment" in problems(network)
    assert network.cells["fc"].shape is None
    assert network.cells["fc"].type == "Fc"


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(IniError, match=re.escape("nowhere.ini")):
        understand("nowhere.ini")


def test_accumulated_batches(tmp_path: Path) -> None:
    config = "[{}]\nSolvers.IterationSize={}\n"
    cells = fc("a", "sp", "ConfigSection=c4") + fc("fc", "a", "ConfigSection=c4")
    network = built(tmp_path, cells + config.format("c4", 4))
    assert network.iteration_size == 4
    assert network.deviations == []
    cells = fc("a", "sp", "ConfigSection=c4") + fc("fc", "a")
    network = built(tmp_path, cells + config.format("c4", 4))
    assert network.iteration_size == 4
    assert "solvers have 1, 4; the largest holds for all" in losses(network)
