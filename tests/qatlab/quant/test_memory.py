"""What is made again in the backward pass is what would have been kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from qatlab.quant import (
    MODES,
    DorefaWeight,
    LsqActivation,
    LsqPlusActivation,
    LsqWeight,
    Memory,
    PactActivation,
    Phase,
    SatActivation,
    SatWeight,
    kernels,
    quantize,
    set_phase,
    start_quantizers,
)
from qatlab.quant.dispatch import encoded, fake_quantize_fused
from qatlab.quant.grid import Grid, cg_pact_grid, lsq_grid
from qatlab.quant.layers import QuantConv2d, QuantLinear
from qatlab.quant.memory import add, add_inplace

METHODS = {
    "lsq": (LsqWeight, LsqActivation),
    "lsq_plus": (LsqWeight, LsqPlusActivation),
    "sat": (SatWeight, SatActivation),
    "pact": (DorefaWeight, PactActivation),
}
WEIGHTS: dict[str, Any] = {
    "SAT": SatWeight,
    "SAT, scaled": partial(SatWeight, scaling=True),
    "SAT, statistics with a gradient": partial(SatWeight, statistics_gradient=True, scaling=True),
    "LSQ": LsqWeight,
    "LSQ per channel": partial(LsqWeight, per_channel=True),
    "DoReFa": DorefaWeight,
}


# Said by the switch of oneDNN.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")


@pytest.fixture(autouse=True)
def _needs_kernels() -> Iterator[None]:
    if not kernels.available():
        pytest.skip("there is no C++ compiler here")
    with torch.backends.mkldnn.flags(enabled=True, deterministic=True):
        yield


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def residual_network() -> nn.Module:
    shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(BasicBlock(8, 8), BasicBlock(8, 16, 2, shortcut), BasicBlock(16, 16)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


IMAGES, LABELS = randn(6, 3, 24, 24), torch.arange(6)


def functions_network() -> nn.Module:
    first = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU())
    second = (nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Hardswish())
    third = (nn.Conv2d(8, 8, 3, 3), nn.GELU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return nn.Sequential(*first, *second, *third, *head)


def quantized(
    method: str,
    bits: int,
    phase: Phase = Phase.QUANTIZE,
    network: Callable[[], nn.Module] = residual_network,
) -> nn.Module:
    torch.manual_seed(0)
    weight, activation = METHODS[method]
    factories = partial(weight, bits=bits), partial(activation, bits=bits)
    model, _ = quantize(network(), *factories, (), IMAGES[:1])
    start_quantizers(model, [IMAGES])
    set_phase(model, phase)
    return model.train()


def gradients(model: nn.Module, mode: str | None) -> list[Tensor]:
    model.zero_grad()
    with nullcontext() if mode is None else Memory(mode):
        loss = F.cross_entropy(model(IMAGES), LABELS)
    loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) > 13
    return [loss.detach(), *(gradient.clone() for gradient in found)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("method", "bits"),
    [*(("lsq", bits) for bits in (2, 3, 4, 8, 9)), ("lsq_plus", 4), ("sat", 2), ("sat", 8)],
)
def test_gradients_are_the_same_to_the_last_bit(method: str, bits: int, mode: str) -> None:
    model = quantized(method, bits)
    for kept, again in zip(gradients(model, None), gradients(model, mode), strict=True):
        assert torch.equal(kept, again)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["lsq", "lsq_plus", "sat"])
def test_functions_behind_norms_are_made_again(method: str, mode: str) -> None:
    model = quantized(method, 4, network=functions_network)
    for kept, again in zip(gradients(model, None), gradients(model, mode), strict=True):
        assert torch.equal(kept, again)
    assert 1.5 * bytes_kept(model, "recompute") < bytes_kept(functions_network(), None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["lsq", "sat"])
@pytest.mark.parametrize("phase", [Phase.FLOAT, Phase.CLAMP])
def test_other_phases_are_left_as_they_are(method: str, phase: Phase, mode: str) -> None:
    model = quantized(method, 4, phase)
    model.load_state_dict(model.state_dict())
    for kept, again in zip(gradients(model, None), gradients(model, mode), strict=True):
        assert torch.equal(kept, again)


def bytes_kept(model: nn.Module, mode: str | None, images: Tensor = IMAGES) -> int:
    """What autograd and the memory's entries hold between forward and backward."""
    from benchmarks.step_cost import Memory as Counted  # counts storages that live

    model.zero_grad()
    with Counted() as counted:
        with nullcontext() if mode is None else Memory(mode):
            loss = model(images).logsumexp(1).sum()
        kept = counted.live
        loss.backward()
    return kept


def test_each_mode_keeps_less_than_the_one_before() -> None:
    plain = bytes_kept(residual_network().train(), None)
    shares = {
        (mode, bits): bytes_kept(quantized("lsq", bits), mode) / plain
        for mode in MODES
        for bits in (4, 8)
    }
    assert shares["keep", 4] <= 1.3
    assert shares["recompute", 4] <= 0.8 * shares["keep", 4]
    # Codes: a quarter of a float for each sum at 8 bits, an eighth at 4.
    assert shares["compact", 4] < shares["compact", 8] < 0.9 * shares["recompute", 8]
    assert shares["compact", 8] <= 0.65
    assert shares["compact", 4] <= 0.60


class Noting(Memory):
    """Notes the shapes of what is kept."""

    def __init__(self, mode: str) -> None:
        super().__init__(mode)
        self.kept: list[tuple[int, ...]] = []

    def _pack(self, x: Tensor) -> Any:
        packed = super()._pack(x)
        if isinstance(packed, tuple):
            self.kept.append(tuple(x.shape))
        return packed


@pytest.mark.parametrize("method", ["lsq", "sat"])
def test_quantized_weights_are_never_kept(method: str) -> None:
    model = quantized(method, 4)
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 4]
    memory = Noting("keep")
    with memory:
        model(IMAGES)
    # The float weights are, by their quantizers; they are parameters, and cost nothing.
    assert sorted(s for s in memory.kept if s in shapes) == sorted(shapes)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "Linear": (nn.Linear(300, 200), (5, 300)),
    "Linear of rows": (nn.Linear(300, 200, bias=False), (2, 3, 300)),
    "Conv2d": (nn.Conv2d(30, 40, 5), (2, 30, 7, 6)),
    "depthwise": (nn.Conv2d(900, 900, 5, groups=900, bias=False), (1, 900, 5, 5)),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_quantized_weights_are_made_again_masked_and_transposed(
    weight: str, layer: str, masked: bool
) -> None:
    float_layer, shape = LAYERS[layer]
    quantizer = WEIGHTS[weight](bits=4)
    quantizer.fit(float_layer.weight)
    kind = QuantLinear if isinstance(float_layer, nn.Linear) else QuantConv2d
    model = kind.of(float_layer, quantizer)
    if masked:
        model.weight_mask = (randn(*float_layer.weight.shape, seed=1) > 0).float()
    x = randn(*shape).requires_grad_()
    found, size = [], 4 * float_layer.weight.numel()
    model(x)  # starts
    for mode in (None, *MODES):
        kept = bytes_kept(model, mode, randn(*shape).requires_grad_())
        if mode is not None:
            # The output and its cross entropy; nothing as large as the weights.
            assert kept < size / 2, mode
        x.grad = None
        model.zero_grad()
        with nullcontext() if mode is None else Memory(mode):
            y = model(x)
        y.backward(randn(*y.shape, seed=2))
        found.append([x.grad, *(p.grad for p in model.parameters())])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.parametrize("mode", MODES)
def test_views_of_what_a_quantizer_made_are_made_again(mode: str) -> None:
    parameter = torch.tensor(0.2, requires_grad=True)
    weight = randn(7, 60, seed=1).requires_grad_()

    def loss(x: Tensor) -> Tensor:
        y = fake_quantize_fused(2 * x, parameter, lsq_grid(15, False))
        flat = F.linear(y.flatten(1), weight)  # a reshape
        part = y[:, 1:3].transpose(1, 2) ** 2  # a piece
        return flat.square().sum() + part.sum() + (y[0].t() @ y[0]).sum()

    found, counts = [], []
    for context in (nullcontext(), Noting(mode)):
        x = randn(3, 4, 15).requires_grad_()
        with context:
            value = loss(x)
        found.append(torch.autograd.grad(value, (x, parameter, weight)))
        if isinstance(context, Noting):
            counts = [shape for shape in context.kept if shape in ((3, 60), (3, 2, 15), (4, 15))]
    assert all(map(torch.equal, *found))
    assert bool(counts) == (mode == "keep")


def test_a_view_of_a_sum_is_made_again() -> None:
    size = torch.tensor(0.2, requires_grad=True)
    found = []
    for context in (nullcontext(), Memory("compact")):
        x = randn(3, 4, 6, 5).requires_grad_()
        with context:
            first = fake_quantize_fused(x * 1, size, lsq_grid(15, True))
            second = fake_quantize_fused((x * 2).transpose(2, 3), size, lsq_grid(15, True))
            total = add_inplace(first, second.transpose(2, 3))
            twice = add(first.flatten(1)[:1], x[0].flatten())
            value = (total.flatten(1) ** 2).sum() + (twice**2).sum()
        found.append(torch.autograd.grad(value, (x, size)))
    assert all(map(torch.equal, *found))


def vgg(width: int, hidden: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for factor in (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"):
        if factor == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            out = width * int(factor)
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(7), nn.Flatten()]
    for size_in, size_out in ((49 * channels, hidden), (hidden, hidden)):
        head += [nn.Linear(size_in, size_out), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, *head, nn.Linear(hidden, 10))


@pytest.mark.parametrize("method", ["sat", "lsq", "pact"])
@pytest.mark.parametrize(
    ("width", "hidden"), [(8, 512), pytest.param(64, 4096, marks=pytest.mark.slow)]
)
def test_a_vgg_keeps_about_what_the_float_network_keeps(
    method: str, width: int, hidden: int
) -> None:
    images = randn(8, 3, 64, 64)
    plain = bytes_kept(vgg(width, hidden).train(), None, images)
    weight, activation = (partial(part, bits=4) for part in METHODS[method])
    model, _ = quantize(vgg(width, hidden), weight, activation, (), images[:1])
    start_quantizers(model, [images])
    shares = {mode: bytes_kept(model.train(), mode, images) / plain for mode in MODES}
    assert shares["keep"] <= 1.10
    assert shares["recompute"] <= 0.75
    assert shares["compact"] <= 0.70


@pytest.mark.parametrize("count", [1, 7, 8, 1000, 50_001])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("make", [cg_pact_grid, lsq_grid])
def test_codes_hold_the_values(make: Any, bits: int, signed: bool, count: int) -> None:
    if signed and bits == 1:
        pytest.skip("a signed site has no levels at 1 bit")
    grid: Grid = make((1 << bits) - 1, signed)
    size, offset = torch.tensor(0.3), torch.tensor(-0.2)
    y = fake_quantize_fused(2 * randn(count), size, grid, 1.0, offset)
    decode = encoded(size, offset, grid, y)
    assert decode is not None
    assert torch.equal(decode(), y)
    codes = next(c.cell_contents for c in decode.__closure__ if _is_bytes(c.cell_contents))
    width = {1: 1, 2: 2, 3: 4, 4: 4}.get(bits, 8)
    assert codes.numel() == -(-count * width // 8)


def _is_bytes(content: Any) -> bool:
    return isinstance(content, Tensor) and content.dtype is torch.uint8


def test_more_levels_than_a_byte_holds_have_no_codes() -> None:
    grid = lsq_grid(511, True)
    assert encoded(torch.tensor(0.1), None, grid, randn(9)) is None


@pytest.mark.parametrize("mode", MODES)
def test_what_was_changed_in_place_is_kept_as_it_is(mode: str) -> None:
    x, size = randn(4, 5).requires_grad_(), torch.tensor(0.2, requires_grad=True)
    weight = randn(5, 5, seed=1).requires_grad_()
    found = []
    for context in (nullcontext(), Memory(mode)):
        with context:
            y = fake_quantize_fused(2 * x, size, lsq_grid(15, False))
            y.mul_(3.0)
            loss = (y @ weight).sum()
        found.append(torch.autograd.grad(loss, (x, size, weight)))
    for kept, again in zip(*found, strict=True):
        assert torch.equal(kept, again)


def test_what_is_kept_must_not_be_changed_as_without_a_memory() -> None:
    for context in (nullcontext(), Memory("keep")):
        x = randn(3).requires_grad_()
        with context:
            y = 2 * x
            z = y * y
            y.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()


def test_memory_that_was_freed_is_not_mistaken_for_what_was_in_it() -> None:
    size = torch.tensor(0.2, requires_grad=True)
    with Memory("recompute") as memory:
        y = fake_quantize_fused(randn(8, 8).requires_grad_() * 1, size, lsq_grid(15, False))
        assert memory._find(y) is not None
        (entry,) = memory._entries.values()
        del y
        assert entry.storage.expired()  # type: ignore[no-untyped-call]
        other = torch.zeros(8, 8)
        entry.layout = (other._version, *entry.layout[1:])
        memory._entries[other.untyped_storage()._cdata] = entry  # as if at the same address
        assert memory._find(other) is None


def test_a_memory_ends_with_its_block_even_after_an_error() -> None:
    outer = Memory("keep")
    with outer:
        with pytest.raises(ZeroDivisionError), Memory("compact"):
            _ = 1 / 0
        assert Memory.active is outer
    assert Memory.active is None
    assert not outer._entries


def test_a_sum_is_written_over_the_output_of_a_quantizer_behind_a_norm() -> None:
    model = quantized("lsq", 4)
    targets = [n.target for n in model.graph.nodes if n.op == "call_function"]  # type: ignore[union-attr]
    assert targets.count(add_inplace) == 3
    assert add not in targets


def test_sums_of_what_nobody_owns_are_made_apart() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.relu(self.conv(x))
            return y + x

    weight, activation = (partial(part, bits=4) for part in METHODS["lsq"])
    model, _ = quantize(Twice(), weight, activation, (), randn(1, 3, 4, 4))
    assert [n.target for n in model.graph.nodes if n.op == "call_function"] == [add]  # type: ignore[union-attr]
    set_phase(model, Phase.FLOAT)
    model(randn(1, 3, 4, 4)).sum().backward()  # ReLU needs its output


def test_sums_of_sizes_are_left_alone() -> None:
    with Memory("compact"):
        assert add(3, 4) == 7
        assert add(torch.ones(2), 1).tolist() == [2, 2]


def test_a_network_that_is_converted_twice_gets_its_hook_once() -> None:
    network = residual_network()
    weight, activation = (partial(part, bits=4) for part in METHODS["lsq"])
    for _ in range(2):
        quantize(network, weight, activation, (), IMAGES[:1])
    assert len(network[3]._forward_hooks) == 1


def test_hooks_on_a_norm_are_called() -> None:
    model, seen = quantized("lsq", 4), []
    expected = model(IMAGES)
    model.get_submodule("1").register_forward_hook(lambda *_: seen.append(True))
    torch.testing.assert_close(model(IMAGES), expected, rtol=0.05, atol=0.05)
    assert seen == [True]


def test_adding_over_another_type_or_shape_makes_a_new_tensor() -> None:
    a = torch.ones(2, 3)
    assert add_inplace(a, torch.ones(2, 3)) is a
    assert add_inplace(a, torch.ones(4, 2, 3)).shape == (4, 2, 3)
    assert add_inplace(a, torch.ones(2, 3, dtype=torch.float64)).dtype is torch.float64
    assert torch.equal(a, torch.full((2, 3), 2.0))
