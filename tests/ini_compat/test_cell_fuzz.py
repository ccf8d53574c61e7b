"""No cells end in anything but an IniError, and what is accepted is a network of qatlab.

Sections are made of real keys, with values that fit and values that do not. Many more of them:

    python -m tests.ini_compat.test_cell_fuzz 20000
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from math import prod
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from ini_compat.build import understand
from ini_compat.convert import experiment
from ini_compat.errors import IniError
from ini_compat.network import Network
from ini_compat.report import facts
from qatlab.models import LayerGraph

SECONDS = 1.0  # for one file
LARGEST = 1 << 20  # numbers of a network that is built
HEAD = "DefaultModel={}\n[database]\nType=MNIST_IDX_Database\n[env]\nSizeX=8\nSizeY=6\n"

CELLS = {  # what a cell of each type needs
    "Conv": ("KernelSize=3", "NbOutputs=4"),
    "Deconv": ("KernelSize=2", "NbOutputs=3"),
    "Fc": ("NbOutputs=5",),
    "BatchNorm": ("NbOutputs=1",),
    "Pool": ("PoolSize=2", "Pooling=Max", "NbOutputs=1", "Mapping.Size=1"),
    "Unpool": ("PoolSize=2", "Pooling=Max", "NbOutputs=1", "Mapping.Size=1", "ArgMax=c0"),
    "FMP": ("ScalingRatio=1.5", "NbOutputs=1", "Mapping.Size=1"),
    "ElemWise": ("Operation=Sum", "NbOutputs=1"),
    "Dropout": ("NbOutputs=1",),
    "Softmax": ("NbOutputs=1",),
    "LRN": ("NbOutputs=1",),
    "Padding": (
        "TopPadding=1",
        "BottomPadding=0",
        "LeftPadding=-1",
        "RightPadding=1",
        "NbOutputs=1",
    ),
    "Activation": (),
    "Scaling": ("Factor=2", "NbOutputs=1"),
    "Resize": ("OutputWidth=4", "OutputHeight=4", "Mode=Bilinear", "NbOutputs=1"),
    "Reshape": ("Dims=-1 1 0",),
    "Transpose": ("Perm=1 0 2 3",),
    "Normalize": ("Norm=L2", "NbOutputs=1"),
    "Threshold": ("Threshold=0.5", "NbOutputs=1"),
    "LSTM": (),
    "ObjectDet": (),
    "Convo": (),
}
NUMBERS = ("0", "1", "2", "3", "4", "8", "-1", "0.5", "1e3", "1000000000", "9" * 25, "1e999", "")
WORDS = ("x", "${X}", "$(1/0)", "[c0]_NbOutputs", "[c1]_OutputsWidth", "$([c0]_NbOutputs + 1)")
SIZES = ("1 1", "2 3", "3 2", "1 2 3", "0 0 0", "-1 0", "1 0 2 3", "1 0 0 1", "1 1 1 1 0 0 0 0")
LIST = (*NUMBERS, *WORDS, *SIZES)
SWITCH = ("0", "1", "1", "2")
PAIRS = {
    f"{word}{end}": LIST
    for word in ("Kernel", "Stride", "Padding", "Dilation", "SubSample", "Pool")
    for end in ("Dims", "Size", "Width", "Height", "", "X", "Y", "Z")
}
MAPS = {
    f"Mapping{parent}.{name}": NUMBERS
    for parent in ("", "(env)", "(c0)")
    for name in (*("Size", "SizeX", "StrideY", "OffsetX", "NbIterations"), "NbGroups", "Siz")
}
FILLERS = ("HeFiller", "XavierFiller", "NormalFiller", "ConstantFiller", "UniformFiller", "Filler")
KEYS: dict[str, tuple[str, ...]] = {
    **PAIRS,
    **MAPS,
    "Mapping.ChannelsPerGroup": NUMBERS,
    "Mapping(env)": LIST,
    "NbOutputs": (*NUMBERS, *WORDS),
    "Model": ("Frame", "Frame_CUDA", "Spike", "x"),
    "DataType": ("Float32", "Float16", "x"),
    "ActivationFunction": (
        *("Linear", "Rectifier", "Tanh", "Logistic", "LogisticWithLoss", "Saturation", "Swish"),
        *("Softplus", "TanhLeCun", "x", ""),
    ),
    **{f"ActivationFunction.{p}": NUMBERS for p in ("Clipping", "LeakSlope", "Alpha", "Threshold")},
    **{key: FILLERS for key in ("WeightsFiller", "BiasFiller")},
    **{
        f"{key}.{parameter}": (*NUMBERS, "FanOut", "Average", "Normal")
        for key in ("WeightsFiller", "BiasFiller")
        for parameter in ("Value", "StdDev", "Min", "VarianceNorm", "Scaling", "Distribution")
    },
    **{key: ("SAT", "LSQ", "Prune", "x", "") for key in ("QWeight", "QAct")},
    **{f"{key}.Range": (*NUMBERS, "15", "255", "256") for key in ("QWeight", "QAct")},
    **{f"{key}.SetOptInitStepSize": SWITCH for key in ("QWeight", "QAct")},
    "QWeight.QuantMode": ("Default", "Symmetric", "Asymmetric", "FullRange", "x"),
    **{f"QWeight.{key}": SWITCH for key in ("ApplyScaling", "ApplyQuantization")},
    "QAct.Alpha": NUMBERS,
    **{
        key: ("SGD", "Adam", "x")
        for key in ("Solvers", "WeightsSolver", "BiasSolver", "ScaleSolver", "QActSolver")
    },
    **{f"{key}.LearningRate": NUMBERS for key in ("Solvers", "WeightsSolver", "QActSolver")},
    "ConfigSection": ("k", "k,l", "l,k", "k, l", "none", ""),
    "Operation": ("Sum", "AbsSum", "EuclideanSum", "Prod", "Max", "Binary", "Truncate", "x"),
    "CoeffMode": ("PerInput", "PerLayer", "PerChannel", "x"),
    **{key: LIST for key in ("Weights", "Shifts", "Factor", "Dims", "Perm")},
    "WithLoss": SWITCH,
    "GroupSize": NUMBERS,
    "Pooling": ("Max", "Average", "x"),
    "Mode": ("Bilinear", "BilinearTF", "NearestNeighbor", "x"),
    **{key: NUMBERS for key in ("OutputWidth", "OutputHeight", "TopPadding", "RightPadding")},
    **{key: NUMBERS for key in ("InputOffsetX", "InputOffsetY", "InputWidth", "InputHeight")},
    **{key: NUMBERS for key in ("ScalingRatio", "Threshold")},
    "ArgMax": ("c0", "c1", "x"),
    "Norm": ("L1", "L2", "x"),
    "WeightsSharing": ("c0[0]",),
    "Kernel[0][0]": ("1",),
}
PARAMETERS: dict[str, tuple[str, ...]] = {
    **{key: SWITCH for key in ("NoBias", "BackPropagate", "WeightsExportFlip", "Normalize")},
    "WeightsExportFormat": ("OCHW", "HWCO", "OC", "CO"),
    **{key: NUMBERS for key in ("DropConnect", "Dropout", "Epsilon", "MovingAverageMomentum")},
    **{key: NUMBERS for key in ("N", "Alpha", "Beta", "K", "MaxValue")},
    **{key: SWITCH for key in ("AlignCorners", "Overlapping", "PseudoRandom")},
    "Operation": ("Binary", "Truncate", "ToZero", "x"),
    "Solvers.IterationSize": NUMBERS,
    "Solvers.LearningRatePolicy": ("StepDecay", "CosineDecay", "PolyDecay", "x"),
    "Unknown": ("1",),
}
TARGETS: dict[str, tuple[str, ...]] = {
    "Type": ("TargetScore", "Target", "TargetBBox", "x"),
    **{key: NUMBERS for key in ("TargetValue", "DefaultValue", "TopN", "BinaryThreshold")},
    "DataAsTarget": SWITCH,
    "LabelsMapping": ("labels.dat",),
    "Unknown": ("1",),
}


def lines(keys: dict[str, tuple[str, ...]], most: int) -> st.SearchStrategy[list[str]]:
    """Return lines of some keys with one of their values."""
    line = st.sampled_from(list(keys)).flatmap(
        lambda key: st.sampled_from(keys[key]).map(lambda value: f"{key}={value}")
    )
    return st.lists(line, max_size=most)


@st.composite
def projects(draw: st.DrawFn) -> str:
    """Return a whole file; its cells are right but for the lines that are drawn."""
    text = [HEAD.format(draw(st.sampled_from(["Frame_CUDA"] * 8 + ["Frame", "x"])))]
    names: list[str] = []
    most = draw(st.sampled_from([0, 1, 1, 2]))
    for i in range(draw(st.integers(1, 4))):
        inputs = draw(st.lists(st.sampled_from(["env", *names]), min_size=1, max_size=1 + i // 2))
        kind = draw(st.sampled_from(list(CELLS) if most else list(CELLS)[:-3]))
        counts = ["1" if parent == "env" else f"[{parent}]_NbOutputs" for parent in inputs]
        outputs = counts[0] if kind == "ElemWise" else f"$({' + '.join(counts)})"
        name = f"c{i}"
        text += [f"[{name}]", f"Input={','.join(inputs)}", f"Type={kind}"]
        text += [line.replace("NbOutputs=1", f"NbOutputs={outputs}") for line in CELLS[kind]]
        text += draw(lines(KEYS, most))
        names.append(name)
    readers = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2))
    text += ["[fc]", f"Input={','.join([*readers, names[-1]])}", "Type=Fc", "NbOutputs=10"]
    targeted = draw(st.sampled_from(["fc", "fc", "fc", *names]))
    text += [f"[{targeted}.Target]", *draw(lines(TARGETS, most // 2))]
    for name in ("k", "l"):
        text += [f"[{name}]", *draw(lines(PARAMETERS, 1))]
    return "\n".join(text) + "\n"


def check(folder: Path, text: str) -> str:
    """Read one file; return how far it comes."""
    path = folder / "model.ini"
    path.write_text(text, encoding="utf-8")
    start = time.perf_counter()
    try:
        network = understand(str(path))
    except IniError:
        return "unreadable"
    elapsed = time.perf_counter() - start
    assert elapsed < SECONDS, f"{elapsed:.2f} s"
    facts(network)
    for problem in network.problems:
        assert isinstance(problem, IniError)
        assert "\n" not in problem.message
        assert problem.place is not None
    if network.problems:
        return "refused"
    return built(network)


def built(network: Network) -> str:
    """Check that qatlab builds a network with the same shapes."""
    shapes = {cell.output: cell.shape for cell in network.cells.values()}
    sizes = [prod(cell.shape or ()) for cell in network.cells.values()]
    sizes += [prod(file.shape) for cell in network.cells.values() for file in cell.files]
    try:
        content = experiment(network)
    except IniError:
        return "no experiment"
    if max(sizes) > LARGEST:
        return "large"
    model = LayerGraph(**content["model"])
    for name in model.shapes.keys() & shapes.keys():
        assert model.shapes[name] == shapes[name]
    state = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    for cell in network.cells.values():
        for file in cell.files:
            assert file.quantizer or state[file.key] == file.shape
    return "built"


SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example]


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(projects())
def test_no_cells_can_do_harm(tmp_path: Path, text: str) -> None:
    check(tmp_path, text)


if __name__ == "__main__":
    count, number = int(sys.argv[1]), int([*sys.argv, "0"][2])
    seen: Counter[str] = Counter()
    place = Path(tempfile.mkdtemp())

    @seed(number)
    @settings(max_examples=count, deadline=None, suppress_health_check=SLOW, database=None)
    @given(projects())
    def many(text: str) -> None:
        seen[check(place, text)] += 1

    many()
    print(dict(seen))
