"""Solvers as parameter groups: section 6 of the specification, computed anew in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import projects
import pytest
from hydra.utils import instantiate
from projects import FC, project, read

from ini_compat.errors import Deviation, IniError
from ini_compat.solvers.lr_policies import POLICIES
from ini_compat.solvers.settings import Pace
from ini_compat.solvers.solvers import PARAMETERS, group
from ini_compat.syntax.resolve import Document
from qatlab.training.lr_policy import constant
from qatlab.training.parameter_group import ParameterGroup

Read = Callable[..., Document]
IMAGES = 1000


class Solver:
    """What one solver section makes, and what was lost."""

    def __init__(self, document: Document, pace: Pace, losses: list[Deviation], kind: str) -> None:
        section = document.section("s")
        self.node = group(kind, {key: (section, key) for key in section}, pace)
        self.deviations = [f"{item.key} {item.kind}: {item.reason}" for item in losses]

        policy = self.node.get("lr_policy")
        self.factor = constant if policy is None else instantiate(policy)

    def rate(self, epoch: float, epochs: float = 1e9) -> float:
        """Return qatlab's rate at a position; a decay that follows the phase would show."""
        return float(self.node["lr"] * self.factor(epoch, epochs))


@pytest.fixture
def solver(document: Read) -> Callable[..., Solver]:
    """Return a function that reads a solver from lines such as ``LearningRate=0.1``."""

    def make(
        *lines: str, kind: str = "SGD", images: int = IMAGES, batch: int = 100, known: bool = True
    ) -> Solver:
        deviations: list[Deviation] = []
        pace = Pace(images, batch, known, deviations.append)
        return Solver(document("\n".join(["[s]", *lines]) + "\n"), pace, deviations, kind)

    return make


def n2d2_rates(given: dict[str, float | str], batch: int) -> Iterator[float]:
    """Yield N2D2's rate at each update, as 6.1 says."""
    p: dict[str, Any] = {
        **{"LearningRate": 0.01, "Power": 0.0, "IterationSize": 1, "MaxIterations": 0},
        **{"WarmUpDuration": 0, "WarmUpLRFrac": 0.25, "LearningRatePolicy": "None"},
        **{"LearningRateStepSize": 1, "LearningRateDecay": 0.1, "MinDecay": 0.0, **given},
    }
    lr, decay, most = p["LearningRate"], p["LearningRateDecay"], p["MaxIterations"]
    warm_up, policy = p["WarmUpDuration"], p["LearningRatePolicy"]
    k = 0
    while True:
        j = k * p["IterationSize"] * batch // p["LearningRateStepSize"]
        if policy == "None":
            rate = lr
        elif policy == "StepDecay":
            rate = lr * decay**j
        elif policy == "ExponentialDecay":
            rate = lr * math.exp(-decay * j)
        elif policy == "InvTDecay":
            rate = lr / (1 + decay * j)
        elif policy == "InvDecay":
            rate = lr * (1 + decay * k) ** -p["Power"]
        elif policy == "PolyDecay":
            rate = lr * (1 - k / most) ** p["Power"]
        elif j < warm_up:
            frac = p["WarmUpLRFrac"]
            rate = lr * ((1 - frac) * j / warm_up + frac)
        else:
            wave = 0.5 * (1 + math.cos(math.pi * (j - warm_up) / (most - warm_up)))
            rate = lr * max(0.0, (1 - p["MinDecay"]) * wave + p["MinDecay"])
        yield rate
        k += rate != 0 and (most == 0 or k < most)


RATES: list[dict[str, float | str]] = [
    {"LearningRate": 0.05},
    {"LearningRatePolicy": "None", "LearningRate": 0.0},
    {"LearningRatePolicy": "StepDecay", "LearningRateStepSize": 1000, "LearningRateDecay": 0.993},
    {"LearningRatePolicy": "StepDecay", "LearningRateStepSize": 777, "LearningRateDecay": 0.5},
    {"LearningRatePolicy": "StepDecay", "LearningRateStepSize": 100000},
    {"LearningRatePolicy": "StepDecay", "LearningRateStepSize": 64, "LearningRateDecay": 1.0},
    {"LearningRatePolicy": "StepDecay"},  # a tenth after each sample
    {"LearningRatePolicy": "ExponentialDecay", "LearningRateDecay": 1e-4},
    {"LearningRatePolicy": "ExponentialDecay", "LearningRateStepSize": 1000},
    {"LearningRatePolicy": "ExponentialDecay", "LearningRateStepSize": 300},
    {"LearningRatePolicy": "InvTDecay", "LearningRateDecay": 1e-4},
    {"LearningRatePolicy": "InvTDecay", "LearningRateStepSize": 300, "LearningRateDecay": 0.2},
    {"LearningRatePolicy": "InvDecay", "LearningRateDecay": 1e-3, "Power": 0.75},
    {"LearningRatePolicy": "InvDecay"},
    {"LearningRatePolicy": "PolyDecay", "MaxIterations": 100, "Power": 1.0},
    {"LearningRatePolicy": "PolyDecay", "MaxIterations": 33, "Power": 4.0},
    {"LearningRatePolicy": "PolyDecay", "MaxIterations": 33},
    {"LearningRatePolicy": "CosineDecay", "MaxIterations": 100000},
    {"LearningRatePolicy": "CosineDecay", "MaxIterations": 9000, "MinDecay": 0.1},  # and up again
    {"LearningRatePolicy": "CosineDecay", "MaxIterations": 100000, "WarmUpDuration": 3000},
    {
        **{"LearningRatePolicy": "CosineDecay", "MaxIterations": 50000, "WarmUpDuration": 777},
        **{"WarmUpLRFrac": 0.5, "MinDecay": 0.01},
    },
    {"LearningRatePolicy": "CosineDecay", "MaxIterations": 1000, "LearningRateStepSize": 10},
    {
        **{"LearningRatePolicy": "CosineDecay", "MaxIterations": 300, "LearningRateStepSize": 37},
        **{"WarmUpDuration": 40, "MinDecay": 0.2},
    },
]


@pytest.mark.parametrize("batch", [1, 128])
@pytest.mark.parametrize("iteration_size", [1, 4])
@pytest.mark.parametrize("given", RATES, ids=lambda given: "-".join(map(str, given.values())))
def test_the_rate_at_every_update_is_that_of_n2d2(
    solver: Callable[..., Solver],
    given: dict[str, float | str],
    iteration_size: int,
    batch: int,
) -> None:
    given = {**given, "IterationSize": iteration_size}
    made = solver(*(f"{key}={value}" for key, value in given.items()), batch=batch)
    updates = math.ceil(IMAGES / (batch * iteration_size))  # of an epoch
    count = min(12 * updates, 1200)
    if "Cosine" in str(given.get("LearningRatePolicy")):
        units, size = int(given["MaxIterations"]), int(given.get("LearningRateStepSize", 1))
        if size > batch * iteration_size:  # N2D2 stops to count, which has a test of its own
            count = min(count, units)
        elif "MinDecay" not in given:  # and it stays at 0 if it meets that exactly
            count = min(count, units * size // (batch * iteration_size))
    for k, expected in zip(range(count), n2d2_rates(given, batch), strict=False):
        assert math.isclose(made.rate(k / updates), expected, rel_tol=1e-8), k


def test_each_policy_is_tested() -> None:
    assert {str(given.get("LearningRatePolicy", "None")) for given in RATES} == set(POLICIES)


def test_drops_stay_in_time_over_a_thousand_epochs(solver: Callable[..., Solver]) -> None:
    lines = ("LearningRatePolicy=StepDecay", "LearningRateStepSize=60000", "LearningRateDecay=0.9")
    made = solver(*lines, images=60000, batch=64)
    for epoch in range(1, 1000):
        drop = math.ceil(epoch * 60000 / 64)  # the first update behind so many samples
        before, after = (made.rate((drop + i) / 938) / 0.01 for i in (-1, 0))
        assert before == pytest.approx(0.9 ** (epoch - 1))
        assert after == pytest.approx(0.9**epoch)


def test_an_epoch_is_one_epoch_where_batches_are_full(solver: Callable[..., Solver]) -> None:
    made = solver("LearningRatePolicy=StepDecay", "LearningRateStepSize=3000")
    assert made.node["lr_policy"]["every"] == 3.0


def test_where_n2d2_stops_counting_updates_is_reported(solver: Callable[..., Solver]) -> None:
    for policy in ("StepDecay", "ExponentialDecay", "InvTDecay", "InvDecay"):
        made = solver(f"LearningRatePolicy={policy}", "MaxIterations=25")
        assert "stays as it is from update 25 on, after 2.5 epochs" in made.deviations[0]
    # 40 steps of 1000 samples are 400 updates of 100, but N2D2 stops to count at 40.
    cosine = solver(
        "LearningRatePolicy=CosineDecay", "MaxIterations=40", "LearningRateStepSize=1000"
    )
    assert "stays as it is from update 40 on, after 4 epochs" in cosine.deviations[0]
    assert cosine.rate(2.5) == pytest.approx(
        0.01 * 0.5 * (1 + math.cos(math.pi * 2 / 40))
    )  # in steps of an epoch


def test_a_cosine_without_end_lasts_as_long_as_the_phase(solver: Callable[..., Solver]) -> None:
    made = solver("LearningRatePolicy=CosineDecay")
    assert made.rate(5.0, epochs=10.0) == pytest.approx(0.005)
    assert "N2D2's rate is 0 from the start" in made.deviations[0]


def test_a_warm_up_from_zero_is_reported(solver: Callable[..., Solver]) -> None:
    made = solver(
        *("LearningRatePolicy=CosineDecay", "MaxIterations=9000", "WarmUpDuration=500"),
        "WarmUpLRFrac=0",
    )
    assert "N2D2 never leaves a rate of 0" in made.deviations[0]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), {"lr": 0.01}),
        (("LearningRate=0",), {"lr": 0.0}),
        (("Momentum=0.9", "Decay=5e-4"), {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}),
        (("Momentum=0", "Decay=0"), {"lr": 0.01}),
        (("Clamping=-1.0:1.0",), {"lr": 0.01, "clamp": [-1.0, 1.0]}),
        (("Clamping=0:",), {"lr": 0.01, "clamp": [0.0, None]}),
        (("Clamping=:5e-1",), {"lr": 0.01, "clamp": [None, 0.5]}),
        (("Clamping=:",), {"lr": 0.01}),
        (("Clamping=",), {"lr": 0.01}),
    ],
)
def test_sgd(
    solver: Callable[..., Solver], lines: tuple[str, ...], expected: dict[str, Any]
) -> None:
    assert solver(*lines).node == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), {"method": "adam", "lr": 0.001}),
        (
            ("Beta1=0.5", "Epsilon=1e-4", "Clamping=:2"),
            {
                "method": "adam",
                "lr": 0.001,
                "betas": [0.5, 0.999],
                "eps": 1e-4,
                "clamp": [None, 2.0],
            },
        ),
        (("Beta2=0.99",), {"method": "adam", "lr": 0.001, "betas": [0.9, 0.99]}),
    ],
)
def test_adam(
    solver: Callable[..., Solver], lines: tuple[str, ...], expected: dict[str, Any]
) -> None:
    made = solver(*lines, kind="Adam")
    assert made.node == expected
    ParameterGroup.of("group", {"parameters": "*", **expected})  # qatlab takes it


def test_qatlab_has_the_same_defaults(solver: Callable[..., Solver]) -> None:
    for kind in PARAMETERS:
        made = ParameterGroup.of("g", {"parameters": "*", **solver(kind=kind).node}).for_optimizer()
        plain = {"parameters": "*", "method": kind.lower()}
        assert made == ParameterGroup.of("g", plain).for_optimizer()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("LearningRatee=1", "SGD has no parameter LearningRatee, and N2D2 does not load the file."),
        ("LearningRatee=1", "Did you mean 'LearningRate'? Accepted: LearningRate, Momentum"),
        ("LearningRate=fast", "Accepted: a number"),
        ("LearningRate=-0.1", "LearningRate=-0.1 is wrong. Accepted: 0 or more"),
        ("Momentum=-1", "Momentum=-1 is wrong. Accepted: 0 or more"),
        ("Decay=-1", "Decay=-1 is wrong. Accepted: 0 or more"),
        ("IterationSize=0", "IterationSize=0 is wrong. Accepted: 1 or more"),
        ("IterationSize=2.5", "Accepted: an integer"),
        ("Clamping=-1", "Clamping=-1 is wrong. Accepted: low:high, each optional"),
        ("Clamping=a:b", "Clamping=a:b is wrong"),
        ("Clamping=nan:1", "Clamping=nan:1 is wrong"),
        ("Clamping=1:-1", "Clamping=1:-1 is wrong. Accepted: low:high, low below high"),
        ("Clamping=1:1", "low below high"),
        ("Clamping=0:1:2", "Clamping=0:1:2 is wrong"),
        ("LearningRatePolicy=Cosine", "Did you mean 'CosineDecay'?"),
        ("LearningRatePolicy=StepDecay\nLearningRateStepSize=0", "0 is wrong. Accepted: 1 or more"),
        (
            "LearningRatePolicy=StepDecay\nLearningRateDecay=1.5",
            "LearningRateDecay=1.5 is wrong. Accepted",
        ),
        (
            "LearningRatePolicy=CosineDecay\nMaxIterations=10\nWarmUpDuration=10",
            "WarmUpDuration=10 is wrong. Accepted: less than MaxI",
        ),
        ("LearningRatePolicy=CosineDecay\nMaxIterations=9\nMinDecay=2", "MinDecay=2 is wrong. Acc"),
    ],
)
def test_mistakes(solver: Callable[..., Solver], line: str, told: str) -> None:
    with pytest.raises(IniError) as error:
        solver(line)
    assert told in str(error.value)
    assert str(error.value).startswith("model.ini:")


@pytest.mark.parametrize("iterations", ["", "MaxIterations=0", "MaxIterations=$(7 * int(90 / 99))"])
def test_a_polynomial_decay_without_length_follows_the_schedule_and_is_noted(
    solver: Callable[..., Solver], iterations: str
) -> None:
    lines = ("LearningRate=0.1", "LearningRatePolicy=PolyDecay", "Power=1", iterations)
    made = solver(*filter(None, lines))
    assert [made.rate(epoch, 20) for epoch in (0, 5, 20)] == pytest.approx([0.1, 0.075, 0.0])
    key = "MaxIterations" if iterations else "LearningRatePolicy"
    assert len(made.deviations) == 1
    assert made.deviations[0].startswith(
        f"[s] {key} approximated: with MaxIterations=0 N2D2's rate"
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Beta3=1", "Adam has no parameter Beta3, and N2D2 does not load the file. Did you mean"),
        ("Decay=1", "Adam has no parameter Decay"),
        ("Beta1=1", "Beta1=1 is wrong. Accepted: a number in [0, 1)"),
        ("Epsilon=-1", "Epsilon=-1 is wrong. Accepted: 0 or more"),
    ],
)
def test_mistakes_with_adam(solver: Callable[..., Solver], line: str, told: str) -> None:
    with pytest.raises(IniError) as error:
        solver(line, kind="Adam")
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("policy", "without_effect"),
    [
        ("None", "LearningRateStepSize LearningRateDecay Power WarmUpDuration MinDecay"),
        ("StepDecay", "Power WarmUpDuration WarmUpLRFrac MinDecay"),
        ("ExponentialDecay", "Power WarmUpDuration WarmUpLRFrac MinDecay"),
        ("InvTDecay", "Power WarmUpDuration WarmUpLRFrac MinDecay"),
        ("InvDecay", "LearningRateStepSize WarmUpDuration WarmUpLRFrac MinDecay"),
        ("PolyDecay", "LearningRateStepSize LearningRateDecay WarmUpDuration MinDecay"),
        ("CosineDecay", "LearningRateDecay Power"),
    ],
)
def test_keys_without_effect_are_reported(
    solver: Callable[..., Solver], policy: str, without_effect: str
) -> None:
    keys = without_effect.split()
    lengths = ["MaxIterations=1000"] if policy in ("PolyDecay", "CosineDecay") else []
    made = solver(f"LearningRatePolicy={policy}", *lengths, *(f"{key}=1" for key in keys))
    expected = [f"[s] {key} ignored: no effect with LearningRatePolicy={policy}" for key in keys]
    assert made.deviations == expected


def test_what_n2d2_never_reads_is_reported(solver: Callable[..., Solver]) -> None:
    assert solver("PolyakMomentum=0.5").deviations == [
        "[s] PolyakMomentum ignored: N2D2 itself never reads it"
    ]


@pytest.mark.parametrize(
    ("line", "default"),
    [
        ("LearningRate=${FAST}", {"lr": 0.01}),
        ("Clamping=${BOUNDS}", {"lr": 0.01}),
        ("LearningRatePolicy=${POLICY}", {"lr": 0.01}),
        ("IterationSize=${N}", {"lr": 0.01}),
    ],
)
def test_an_undefined_variable_leaves_the_default(
    solver: Callable[..., Solver], line: str, default: dict[str, Any]
) -> None:
    made = solver(line)
    key, value = line.split("=")
    assert made.node == default
    assert made.deviations == [
        f"[s] {key} approximated: {value} is defined nowhere; the default of {key} holds"
    ]


def test_a_number_of_images_that_is_not_known(tmp_path: Path) -> None:
    folder = "[database]\nType=DIR_Database\nDataPath=x\nLearn=0.5\n"
    config = "[c]\nSolvers.LearningRatePolicy=StepDecay\nSolvers.LearningRateStepSize="
    sp = projects.SP + "NbChannels=3\n"

    def every(size: str, **options: object) -> tuple[Any, str]:
        cells = f"{FC}ConfigSection=c\n{config}{size}\n"
        network = read(tmp_path, project(cells, database=folder, sp=sp), **options)
        assert network.problems == []
        policy = network.cells["fc"].solvers["fc.weight"]["lr_policy"]
        return policy["every"], projects.losses(network)

    # In epochs it is known, whatever the number of images is.
    assert every("$([sp]_EpochSize * 30)") == (30.0, "")
    assert every("5000", images=500) == (10.0, "")
    wrong, told = every("5000")
    assert wrong == 0.005
    assert "how many images there are to learn from is not known: taken as 1000000" in told
    assert told.endswith("give --images")


CELL = "[fc]\nInput=sp\nType=Fc\nNbOutputs=10\n{cell}ConfigSection=c\n[c]\n{config}"


@pytest.mark.parametrize(
    ("cell", "config", "weights", "biases"),
    [
        ("", "", {"lr": 0.01}, {"lr": 0.01}),
        # Without Solvers= in the cell, its Solvers.* have no effect: they are told.
        ("Solvers.LearningRate=5\n", "", {"lr": 0.01}, {"lr": 0.01}),
        ("Solvers=SGD\nSolvers.LearningRate=5\n", "", {"lr": 5.0}, {"lr": 5.0}),
        ("", "Solvers.LearningRate=5\n", {"lr": 5.0}, {"lr": 5.0}),
        ("", "WeightsSolver.LearningRate=5\n", {"lr": 5.0}, {"lr": 0.01}),
        ("", "BiasSolver.LearningRate=5\nSolvers.LearningRate=3\n", {"lr": 3.0}, {"lr": 5.0}),
        (
            "Solvers=SGD\nSolvers.LearningRate=5\nSolvers.Momentum=0.5\n",
            "Solvers.LearningRate=3\n",
            {"lr": 3.0, "momentum": 0.5},
            {"lr": 3.0, "momentum": 0.5},
        ),
        # WeightsSolver= replaces the one that Solvers= made, with all of its parameters.
        (
            "Solvers=SGD\nSolvers.Momentum=0.5\nWeightsSolver=SGD\nWeightsSolver.LearningRate=7\n",
            "",
            {"lr": 7.0},
            {"lr": 0.01, "momentum": 0.5},
        ),
        (
            "Solvers=Adam\nSolvers.Beta1=0.5\nBiasSolver=SGD\n",
            "",
            {"method": "adam", "lr": 0.001, "betas": [0.5, 0.999]},
            {"lr": 0.01},
        ),
        (
            "Solvers=Adam\n",
            "Solvers.LearningRate=3\nBiasSolver.LearningRate=4\n",
            {"method": "adam", "lr": 3.0},
            {"method": "adam", "lr": 4.0},
        ),
        (
            "WeightsSolver=Adam_Frame_CUDA\n",
            "WeightsSolver.Epsilon=1e-4\n",
            {"method": "adam", "lr": 0.001, "eps": 1e-4},
            {"lr": 0.01},
        ),
    ],
)
def test_precedence_of_cell_and_config_section(
    tmp_path: Path, cell: str, config: str, weights: dict[str, Any], biases: dict[str, Any]
) -> None:
    network = read(tmp_path, project(CELL.format(cell=cell, config=config)))
    assert network.problems == []
    assert network.cells["fc"].solvers == {"fc.weight": weights, "fc.bias": biases}
    if cell.startswith("Solvers."):
        assert "[fc] Solvers.LearningRate ignored" in projects.losses(network)


def test_adam_does_not_take_what_the_config_section_has_for_sgd(tmp_path: Path) -> None:
    text = CELL.format(cell="Solvers=Adam\n", config="Solvers.Momentum=0.9\n")
    assert "[c] Solvers.Momentum: Adam has no parameter Momentum" in projects.problems(
        read(tmp_path, project(text))
    )


@pytest.mark.parametrize("word", ["Sgd", "ADAM", "RMSProp"])
def test_a_solver_that_n2d2_does_not_have(tmp_path: Path, word: str) -> None:
    network = read(tmp_path, project(CELL.format(cell=f"Solvers={word}\n", config="")))
    told = projects.problems(network)
    assert f"[fc] Solvers={word} is wrong." in told
    assert told.endswith("Accepted: SGD, Adam")


QUANTIZED = (
    "[conv]\nInput=sp\nType=Conv\nKernelSize=3\nNbOutputs=4\nActivationFunction=Linear\n"
    "QWeight={0}\nQAct={0}\n{1}ConfigSection=c\n[c]\nSolvers.LearningRate=5\n"
    "[fc]\nInput=conv\nType=Fc\nNbOutputs=10\n"
)


def test_clip_values_have_a_solver_of_their_own(tmp_path: Path) -> None:
    alpha = "conv_qact.alpha"
    default = read(tmp_path, project(QUANTIZED.format("SAT", "")))
    assert default.cells["conv"].solvers[alpha] == {"lr": 0.01}
    own = "QActSolver=SGD\nQActSolver.LearningRate=2\nQActSolver.Decay=0.5\n"
    chosen = read(tmp_path, project(QUANTIZED.format("SAT", own)))
    assert chosen.cells["conv"].solvers[alpha] == {"lr": 2.0, "weight_decay": 0.5}


def test_steps_of_lsq_have_solvers_of_their_own(tmp_path: Path) -> None:
    own = "QWeightSolver=Adam\nQWeightSolver.LearningRate=2\n"
    solvers = read(tmp_path, project(QUANTIZED.format("LSQ", own))).cells["conv"].solvers
    assert solvers["conv.weight_quantizer.step_size"] == {"method": "adam", "lr": 2.0}
    assert solvers["conv_qact.step_size"] == {"lr": 0.01}


def test_iteration_sizes_that_differ_are_reported(tmp_path: Path) -> None:
    cells = QUANTIZED.format("SAT", "").replace("[c]\n", "[c]\nSolvers.IterationSize=4\n")
    network = read(tmp_path, project(cells))
    assert network.iteration_size == 4
    # The clip value, and [fc], which has no ConfigSection, are updated with each batch.
    assert "IterationSize approximated: solvers have 1, 4" in projects.losses(network)
