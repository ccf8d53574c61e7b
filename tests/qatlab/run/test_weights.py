"""Which values of a weights file a network takes, and which start anew."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qatlab.errors import CheckpointError
from qatlab.quant import (
    LsqActivation,
    LsqWeight,
    SatActivation,
    SatWeight,
    quantize,
    start_quantizers,
)
from qatlab.run.weights import init_weights

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LSQ, SAT = (LsqWeight, LsqActivation), (SatWeight, SatActivation)


def network(quantizers: Any = None, bits: int = 4, seed: int = 0, **of_weights: Any) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.Flatten(), nn.Linear(144, 2)
    )
    if quantizers is None:
        return model
    weight, activation = quantizers
    factories = partial(weight, bits=bits, **of_weights), partial(activation, bits=bits)
    return quantize(model, *factories, (), IMAGES[:1])[0]


def saved(model: nn.Module, path: Path) -> str:
    torch.save(model.state_dict(), path)
    return str(path)


def trained(quantizers: Any, bits: int = 4, **of_weights: Any) -> nn.Module:
    """Started, and with learned values that no start gives."""
    model = network(quantizers, bits, seed=1, **of_weights)
    start_quantizers(model, [IMAGES])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("step_size", "alpha")):
                parameter.mul_(1.5)
    return model


def learned(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {k: v for k, v in state.items() if k.endswith(("step_size", "alpha", "initialized"))}


@pytest.mark.parametrize("quantizers", [LSQ, SAT])
def test_the_same_network_takes_all(quantizers: Any, tmp_path: Path) -> None:
    old, new = trained(quantizers), network(quantizers)
    told = init_weights(new, saved(old, tmp_path / "w.pt"))
    assert "left out" not in told
    for key, value in learned(old).items():
        assert torch.equal(learned(new)[key], value), key
    start_quantizers(new, [])  # nothing is left to be started
    assert torch.equal(new(IMAGES), old(IMAGES))


@pytest.mark.parametrize(("old_of", "new_of"), [(LSQ, SAT), (SAT, LSQ)])
def test_another_method_starts_anew(old_of: Any, new_of: Any, tmp_path: Path) -> None:
    old, new = trained(old_of), network(new_of)
    told = init_weights(new, saved(old, tmp_path / "w.pt"))
    assert "values of quantizers left out" in told
    assert torch.equal(new.get_parameter("0.weight"), old.get_parameter("0.weight"))
    assert not any(v.item() for k, v in learned(new).items() if k.endswith("initialized"))
    fresh = network(new_of)
    float_state = {k: v for k, v in old.state_dict().items() if k in network().state_dict()}
    fresh.load_state_dict({**fresh.state_dict(), **float_state})
    for model in (new, fresh):
        start_quantizers(model, [IMAGES])
    for key, value in learned(fresh).items():
        assert torch.equal(learned(new)[key], value), key


def test_a_step_of_other_bits_starts_anew_and_a_clip_value_is_kept(tmp_path: Path) -> None:
    eight, two = trained(LSQ, bits=8), network(LSQ, bits=2)
    init_weights(two, saved(eight, tmp_path / "lsq.pt"))
    start_quantizers(two, [IMAGES])
    step = two.get_parameter("0.weight_quantizer.step_size").item()
    weight = eight.get_parameter("0.weight").abs().mean().item()
    assert step == pytest.approx(2 * weight)  # 2 mean|w| / sqrt(1)
    eight, two = trained(SAT, bits=8), network(SAT, bits=2)
    told = init_weights(two, saved(eight, tmp_path / "sat.pt"))
    assert torch.equal(two.get_parameter("2.alpha"), eight.get_parameter("2.alpha"))
    assert "3 values of quantizers left out" not in told


def test_a_step_for_each_channel_starts_anew_from_a_file_with_one(tmp_path: Path) -> None:
    old, new = trained(LSQ), network(LSQ, per_channel=True)
    told = init_weights(new, saved(old, tmp_path / "w.pt"))
    assert "left out, first 0.weight_quantizer." in told
    assert not new.get_buffer("0.weight_quantizer.initialized")
    assert new.get_buffer("2.initialized")  # its site is the same


def test_float_and_quantized_files_fit_each_other(tmp_path: Path) -> None:
    quantized, plain = network(LSQ), network(seed=3)
    assert "left out" not in init_weights(quantized, saved(plain, tmp_path / "float.pt"))
    assert torch.equal(quantized.get_parameter("0.weight"), plain.get_parameter("0.weight"))
    other = network(seed=4)
    assert "left out" in init_weights(other, saved(trained(LSQ), tmp_path / "lsq.pt"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = saved(nn.Sequential(nn.Conv2d(3, 5, 3)), tmp_path / "w.pt")
    with pytest.raises(
        CheckpointError, match=r"does not fit the model: 0\.weight is \(5, 3, 3, 3\)"
    ):
        init_weights(network(LSQ), path)


def test_powers_of_two_and_other_steps_are_not_taken_for_each_other(tmp_path: Path) -> None:
    old, new = trained(LSQ), network(LSQ, power_of_two=True)
    told = init_weights(new, saved(old, tmp_path / "w.pt"))
    assert "values of quantizers left out" in told
    assert not learned(new)["0.weight_quantizer.initialized"]  # its steps are rounded
    assert learned(new)["2.initialized"]  # those of its sites are not


@pytest.mark.parametrize("quantizers", [LSQ, SAT])
def test_a_file_of_a_phase_with_more_bits_is_refused_where_it_has_to_fit(
    quantizers: Any, tmp_path: Path
) -> None:
    file = saved(trained(quantizers, 8), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"saved in a phase with other bits.*resume="):
        init_weights(network(quantizers, 4), file, whole=True, same_bits=True)
    assert "left out" in init_weights(network(quantizers, 4), file, whole=True)
    same = saved(trained(quantizers, 4), tmp_path / "same.pt")
    init_weights(network(quantizers, 4), same, whole=True, same_bits=True)
    wide = trained(quantizers, 4)
    wide.get_submodule("2").widen(8)  # a site alone
    file = saved(wide, tmp_path / "wide.pt")
    with pytest.raises(CheckpointError, match=r"other bits.*: 2\._extra_state does not fit"):
        init_weights(network(quantizers, 4), file, whole=True, same_bits=True)
