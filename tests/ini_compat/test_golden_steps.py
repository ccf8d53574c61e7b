"""SGD steps that N2D2 itself computed, repeated by what is imported from its ``.ini`` files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from ini_compat.__main__ import main
from ini_compat.build import understand
from qatlab import config
from qatlab.quant import set_phase
from qatlab.quant.grid import AT_END
from qatlab.run.build import Built, build
from qatlab.run.trainer import module_of

CLOSE = 1e-5  # of a tensor's norm; N2D2's own variances are up to 1e-4 off, see NEAR
START = {1: "before", 2: "after1"}  # both steps begin with N2D2's values, lest deviations add up


class Tie(NamedTuple):
    """An activation next to a border of the quantizer, which N2D2 may have on the other side.

    Attributes:
        layer: whose output it is.
        at: image, channel, row and column; of a fully-connected layer image and channel.
        border: in steps, the middle of two levels, or 0, up to which no gradient passes.
        distance: from the border, in steps, as computed here.
        side: 1 if N2D2 has it above the border, -1 below.
    """

    layer: str
    at: tuple[int, ...]
    border: float
    distance: float
    side: int


# Found by search among all activations this near to a middle: those without which the outputs of
# the images, or the weights after the step, are not N2D2's. N2D2 computes in single precision: what
# it stores as variances of bn1 is up to 1e-4 off, and moves a value by as much.
NEAR = 2e-4
MIDDLES = {
    1: [Tie("bn1", (11, 3, 21, 19), 2.5, -9.5e-5, 1)],
    2: [
        Tie("bn1", (4, 3, 22, 15), 2.5, -3.0e-5, 1),
        Tie("bn1", (11, 1, 7, 7), 3.5, 1.01e-4, -1),
        Tie("bn1", (18, 3, 10, 10), 4.5, -1.83e-4, 1),
        Tie("bn1", (21, 1, 3, 22), 6.5, 1.8e-4, -1),
    ],
}
# Sums of products of levels that cancel: exactly 0, but for the rounding of their partial sums.
# With all of them above 0, so that gradient passes, the weights after the step are N2D2's.
ZEROS = {
    1: [
        *[(1, 3), (2, 26), (5, 56), (6, 32), (8, 14), (9, 64), (12, 5), (12, 35), (12, 39)],
        *[(14, 39), (14, 51), (14, 56), (17, 50), (19, 11), (19, 42), (21, 53), (23, 15)],
        *[(23, 16), (23, 42), (26, 25), (26, 71), (27, 2)],
    ],
    2: [
        *[(2, 82), (3, 41), (3, 69), (4, 29), (6, 41), (6, 47), (6, 53), (6, 74), (7, 24)],
        *[(10, 39), (10, 40), (10, 82), (18, 4), (18, 17), (18, 80), (19, 58), (19, 81)],
        *[(20, 82), (23, 51), (29, 2)],
    ],
}
TIES = {n: MIDDLES[n] + [Tie("fc1", at, 0.0, 0.0, 1) for at in ZEROS[n]] for n in (1, 2)}
MOVED = 2 * 15 * AT_END  # steps from its border to where a tie is put: at 0 it would not pass
DIFFERENT = 4e-4  # between two outputs: 0.01 of the step that they are rounded to


@dataclass
class Imported:
    """A network, built from an experiment that an ``.ini`` became, and what N2D2 computed.

    Attributes:
        built: the experiment.
        golden: N2D2's tensors.
        names: parts of their names by key of the state dict.
    """

    built: Built
    golden: Any
    names: dict[str, str]

    @property
    def model(self) -> nn.Module:
        return self.built.model

    def begin(self, number: int) -> None:
        """Load what N2D2 had before a step."""
        state = self.model.state_dict()
        for key, value in self.expected(START[number]).items():
            state[key] = value.reshape(state[key].shape)
            if key.endswith(".alpha"):
                state[key.replace("alpha", "initialized")] = torch.tensor(True)
        self.model.load_state_dict(state)
        self.module = module_of(self.built)
        set_phase(self.model.train(), self.built.schedule.at(0).phase)

    def expected(self, moment: str) -> dict[str, Tensor]:
        return {k: torch.from_numpy(self.golden[f"{n}.{moment}"]) for k, n in self.names.items()}

    def images(self, number: int) -> Tensor:
        return torch.from_numpy(self.golden[f"env.step{number}"])

    def step(self, number: int) -> None:
        """Train with one batch."""
        optimizer = self.module.configure_optimizers()["optimizer"]
        optimizer.zero_grad()
        labels = torch.from_numpy(self.golden[f"labels.step{number}"]).long()
        loss: Any = self.module.training_step((self.images(number), labels), 0)
        loss.backward()
        optimizer.step()

    def deviations(self, number: int) -> dict[str, float]:
        """Return for each parameter and statistic ``|ours - N2D2's| / |N2D2's|`` after a step."""
        state = self.model.state_dict()
        return {
            key: ((state[key].flatten() - value.flatten()).norm() / value.norm()).item()
            for key, value in self.expected(f"after{number}").items()
        }

    def off(self, outputs: Tensor, number: int) -> list[int]:
        """Return the images with an output that is not N2D2's."""
        expected = torch.from_numpy(self.golden[f"fc2.out.step{number}"])
        largest = (outputs.detach() - expected).abs().amax(1)
        return (largest > DIFFERENT).nonzero().flatten().tolist()


def imported(root: Path, shared: Path, ini: Path, folder: Path, golden: str) -> Imported:
    """Import an ``.ini`` and build the experiment, without dropout."""
    (folder / "experiment").mkdir()
    assert main(["convert", str(ini), "-o", str(folder / "experiment/imported.yaml")]) == 0
    config.register()
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        words = ["experiment=imported", "model.layers.fc1_drop.p=0"]
        words += [f"hydra.searchpath=[file://{folder}]", "hydra.runtime.output_dir=run"]
        cfg = compose("config", [*words, f"data.source.folder={shared / 'data'}"])
    names = {
        file.key: file.stem.replace("weights", "weight").replace("QAct_SAT_Alpha", "alpha")
        for cell in understand(str(ini)).cells.values()
        for file in cell.files
    }
    values = np.load(shared / f"data/n2d2/golden/golden_train_{golden}.npz")
    assert {f"{name}.before" for name in names.values()} == {
        name for name in values.files if name.endswith(".before")
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            patch.setenv(name, "0")  # set while building; put back as it was
        return Imported(build(cfg), values, names)


@pytest.fixture(scope="module")
def clamp(root: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """LeNet in the clamp phase; N2D2's has no activation function behind fc1."""
    folder = tmp_path_factory.mktemp("clamp")
    text = (root / "tests/data/ini/LeNet_bn_SAT_clamp.ini").read_text()
    fc1 = "NbOutputs=84\nActivationFunction="
    assert f"{fc1}Rectifier" in text
    (folder / "clamp.ini").write_text(text.replace(f"{fc1}Rectifier", f"{fc1}Linear"))
    return imported(root, shared, folder / "clamp.ini", folder, "clamp")


@pytest.fixture(scope="module")
def quantized(root: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """LeNet at 4 bits, the first and the last layer at 8."""
    ini = shared / "data/n2d2/tests_data/mnist_model/LeNet-bn-SAT.ini"
    folder = tmp_path_factory.mktemp("quantized")
    return imported(root, shared, ini, folder, "w4a4_default")


class Seen(NamedTuple):
    """What enters a layer, and what leaves it, in steps of the quantizer behind it."""

    entering: Tensor
    leaving: Tensor


@contextmanager
def settled(model: nn.Module, ties: Sequence[Tie]) -> Iterator[dict[str, Seen]]:
    """Move ties to N2D2's side; yields what their layers see, as it is without that."""
    seen: dict[str, Seen] = {}

    def settle(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        site: Any = model.get_submodule(f"{name}_qact")
        step = site.alpha.detach() / site.n_steps
        seen[name] = Seen(inputs[0].detach(), output.detach() / step)
        goal = seen[name].leaving.clone()
        for tie in ties:
            if tie.layer == name:
                goal[tie.at] = tie.border + tie.side * MOVED
        moved: Tensor = output + (goal - seen[name].leaving) * step
        return moved

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: settle(name, inputs, output)
        )
        for name in {tie.layer for tie in ties}
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("number", [1, 2])
def test_a_step_with_clamped_weights_ends_at_the_parameters_of_n2d2(
    clamp: Imported, number: int
) -> None:
    clamp.begin(number)
    clamp.step(number)
    deviations = clamp.deviations(number)
    assert max(deviations.values()) < CLOSE, deviations


@pytest.mark.parametrize("number", [1, 2])
def test_a_quantized_step_ends_at_the_parameters_of_n2d2_where_ties_fall_as_there(
    quantized: Imported, number: int
) -> None:
    quantized.begin(number)
    with settled(quantized.model, TIES[number]):
        quantized.step(number)
    deviations = quantized.deviations(number)
    assert max(deviations.values()) < CLOSE, deviations


@pytest.mark.parametrize("number", [1, 2])
def test_the_ties_are_ties(quantized: Imported, number: int) -> None:
    quantized.begin(number)
    with settled(quantized.model, TIES[number]) as seen:
        outputs = quantized.model(quantized.images(number))
    assert quantized.off(outputs, number) == []
    for tie in MIDDLES[number]:
        distance = seen[tie.layer].leaving[tie.at].item() - tie.border
        assert distance == pytest.approx(tie.distance, abs=1e-5)
        assert 0 < -tie.side * distance < NEAR
    fc1: Any = quantized.model.get_submodule("fc1")
    weights = fc1.weight_quantizer(fc1.weight.detach())
    alpha = quantized.model.get_parameter("bn3_qact.alpha").detach()
    # Whole numbers, whose sums are below 2^24, so that nothing is rounded.
    sums = codes(seen["fc1"].entering, alpha) @ codes(weights, weights.abs().max()).T
    assert (sums == 0).nonzero().tolist() == [list(at) for at in ZEROS[number]]


@pytest.mark.parametrize("number", [1, 2])
def test_without_the_gradient_of_zeros_a_step_ends_half_a_percent_from_n2d2(
    quantized: Imported, number: int
) -> None:
    found = []
    for noise in (-1e-6, 0.0, 1e-6):
        quantized.begin(number)
        zeros = [Tie("fc1", at, noise, 0.0, 0) for at in ZEROS[number]]
        with settled(quantized.model, MIDDLES[number] + zeros):
            quantized.step(number)
        found.append(quantized.deviations(number))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-3)
    # What docs/quantizers.md states.
    worst = max(found[1], key=lambda name: found[1][name])
    assert (worst, round(found[1][worst], 4)) == ("fc1.weight", {1: 0.0046, 2: 0.0049}[number])


def codes(values: Tensor, highest: Tensor) -> Tensor:
    """Turn levels of 4 bits, or SAT's odd ones, into whole numbers; ``highest`` is 15."""
    numbers = values * (15 / highest)
    torch.testing.assert_close(numbers, numbers.round(), rtol=0, atol=1e-4)
    return numbers.round()


@pytest.mark.parametrize(("number", "off"), [(1, [11, 14]), (2, [2, 21, 22, 27])])
def test_ties_left_alone_change_the_outputs_of_a_few_images_only(
    quantized: Imported, number: int, off: list[int]
) -> None:
    quantized.begin(number)
    assert quantized.off(quantized.model(quantized.images(number)), number) == off
