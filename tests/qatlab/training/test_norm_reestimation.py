"""Running statistics that are measured anew: what they are, and who sees them."""

from __future__ import annotations

import copy
import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import STEPS, Net, loss_of, make_data, train
from torch import Tensor, nn

from qatlab.errors import ConfigError
from qatlab.quant import LsqActivation, LsqWeight, Phase, SatActivation, SatWeight, quantize
from qatlab.quant.quantizer import set_phase
from qatlab.training.norm_reestimation import NormReestimation, reestimate_norms
from qatlab.training.weight_average import TRAINED, WeightAverage

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging
STATISTICS = ("model.bn.running_mean", "model.bn.running_var")


def batches(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, 1, 6, 6, generator=generator) * (1 + k) for k, n in enumerate(sizes)]


def random_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


def test_statistics_are_means_over_batches_of_those_in_front_of_the_norm() -> None:
    net, images = Net(), batches(8, 4, 4)
    net.bn.running_mean += 5
    reestimate_norms(net, images)
    with torch.no_grad():
        values = [net.conv(x).transpose(0, 1).flatten(1).double().numpy() for x in images]
    mean = np.mean([x.mean(1) for x in values], 0)
    variance = np.mean([x.var(1, ddof=1) for x in values], 0)
    np.testing.assert_allclose(net.bn.running_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.bn.running_var, variance, rtol=1e-5)


def test_a_norm_behind_a_norm_gets_what_the_first_makes_of_a_batch() -> None:
    first, second = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    reestimate_norms(nn.Sequential(first, second), batches(8, 8))
    assert second.running_mean.item() == pytest.approx(0, abs=1e-6)
    # 288 normalised values: their variance is 1 but for eps, and 288 / 287 as it is estimated.
    assert second.running_var.item() == pytest.approx(288 / 287, rel=1e-4)


def test_nothing_else_changes_and_nothing_is_drawn() -> None:
    net = Net().train()
    net.bn.momentum = 0.3
    net.fc.eval()
    net(batches(4)[0])
    before, states = copy.deepcopy(net.state_dict()), random_states()
    reestimate_norms(net, batches(4, 4))
    assert random_states() == states
    assert (net.bn.momentum, net.bn.num_batches_tracked.item()) == (0.3, 1)
    assert [m.training for m in (net, net.bn, net.dropout, net.fc)] == [True, True, True, False]
    changed = {
        key for key, value in net.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"bn.running_mean", "bn.running_var"}
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("weight", "activation"), [(LsqWeight, LsqActivation), (SatWeight, SatActivation)]
)
def test_a_norm_that_its_quantizer_has_absorbed_is_measured_on_quantized_weights(
    weight: Any, activation: Any
) -> None:
    images = batches(8, 8)
    model, _ = quantize(
        Net(), partial(weight, bits=2), partial(activation, bits=2), [], torch.zeros(1, 1, 6, 6)
    )
    assert model.relu._norm == (model.bn,)
    set_phase(model, Phase.QUANTIZE)
    model.train()
    model(images[0])  # starts the quantizers
    reestimate_norms(model, images)
    with torch.no_grad():
        codes = model.conv.weight_quantizer(model.conv.weight)
        assert len(codes.unique()) <= 4
        values = [nn.functional.conv2d(x, codes).transpose(0, 1).flatten(1) for x in images]
    mean = torch.stack([x.mean(1) for x in values]).mean(0)
    variance = torch.stack([x.var(1) for x in values]).mean(0)
    torch.testing.assert_close(model.bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.bn.running_var, variance, rtol=1e-4, atol=1e-5)


def assert_measured(module: nn.Module, state: dict[str, Any], count: int, validation: int) -> None:
    """Compare with what the network of a checkpoint makes of the first batches of all."""
    other = copy.deepcopy(module)
    other.load_state_dict(state)
    data = make_data(validation)
    data.setup("fit")
    reestimate_norms(other, [x for x, _ in data.train_dataloader()][:count])
    for key in STATISTICS:
        assert torch.equal(state[key], other.state_dict()[key]), key


@pytest.mark.parametrize(
    ("validation", "every", "losses"),
    [(8, 1, 3), (8, 2, 1), (0, 1, 0)],  # with a validation in each, in some and in no epoch
)
def test_every_checkpoint_holds_the_statistics_of_its_weights(
    validation: int, every: int, losses: int
) -> None:
    settings = {"validation": validation, "check_val_every_n_epoch": every}
    module, seen = train(NormReestimation(2), **settings)
    assert (len(seen.losses), len(seen.checkpoints)) == (losses, 3)
    for checkpoint in seen.checkpoints:
        assert_measured(module, checkpoint["state_dict"], 2, validation)


def test_a_validation_sees_what_the_checkpoint_holds() -> None:
    module, seen = train(NormReestimation(2))
    losses = [loss_of(module, checkpoint["state_dict"]) for checkpoint in seen.checkpoints]
    assert seen.losses == pytest.approx(losses, rel=1e-5)


def test_the_training_is_the_same_without_it() -> None:
    _, with_it = train(NormReestimation(2))
    end = random_states()
    _, without = train()
    assert random_states() == end
    assert len(with_it.weights) == 3 * STEPS
    for one, other in zip(with_it.weights, without.weights, strict=True):
        assert {key for key in one if not torch.equal(one[key], other[key])} <= set(STATISTICS)


@pytest.mark.parametrize("validation", [8, 0])
@pytest.mark.parametrize("average_first", [True, False])
def test_of_averaged_weights_the_statistics_of_the_average_are_measured(
    average_first: bool, validation: int
) -> None:
    both = [WeightAverage(0.9), NormReestimation(2)]
    module, seen = train(*(both if average_first else both[::-1]), validation=validation)
    _, without = train(WeightAverage(0.9), validation=validation)
    for one, other in zip(seen.checkpoints, without.checkpoints, strict=True):
        state = one["state_dict"]
        assert_measured(module, state, 2, validation)
        changed = {k for k, v in state.items() if not equal(v, other["state_dict"][k])}
        assert changed == set(STATISTICS)
    for key in STATISTICS:  # those of the trained weights are as the training left them
        assert torch.equal(seen.checkpoints[0][TRAINED][key], without.checkpoints[0][TRAINED][key])
    losses = [loss_of(module, c["state_dict"]) for c in seen.checkpoints] if validation else []
    assert seen.losses == pytest.approx(losses, rel=1e-5)


def equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def test_no_more_batches_than_an_epoch_has_are_taken() -> None:
    module, seen = train(NormReestimation(100), phases=((Phase.FLOAT, 1),))
    assert_measured(module, seen.checkpoints[0]["state_dict"], STEPS, 8)


@pytest.mark.parametrize("count", [0, -1, 1.5, "all", True])
def test_a_number_of_batches_that_is_none_is_reported(count: Any) -> None:
    told = r"^callbacks\.reestimate_norms\.batches=\S+ is wrong\. Accepted: a whole number above 0"
    with pytest.raises(ConfigError, match=told):
        NormReestimation(count)


class WithoutNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3, track_running_stats=False)


def test_a_network_without_running_statistics_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^callbacks\.reestimate_norms has no effect on a net"):
        train(NormReestimation(), net=WithoutNorm())
