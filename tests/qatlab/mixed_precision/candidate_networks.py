"""Networks of a few layers, quantized at several widths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor as Numbers
from torch import nn

from qatlab.mixed_precision import Candidates, Choices, Tensor
from qatlab.quant import LsqActivation, LsqWeight, ModelTable, quantize

BATCH = (6, 2, 8, 8)


class Residual(nn.Module):
    """Two convolutions with a shortcut, convolved if asked for, and a layer for three classes."""

    def __init__(self, convolved: bool) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()) if convolved else nn.Identity()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU()
        self.pool = nn.AvgPool2d(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Numbers) -> Numbers:
        """Return outputs, (N, 3)."""
        x = self.relu1(self.stem(x))
        x = self.relu2(self.shortcut(x) + self.norm(self.conv(x)))
        return self.fc(self.pool(x).flatten(1))


class Projected(Residual):
    """The same with a shortcut whose codes have a sign."""

    def __init__(self) -> None:
        super().__init__(convolved=False)
        self.shortcut = nn.Conv2d(8, 8, 1)


def images(seed: int = 1) -> Numbers:
    """Return a batch of bytes from 0 to 1, (6, 2, 8, 8)."""
    drawn = torch.randint(0, 256, BATCH, generator=torch.Generator().manual_seed(seed))
    return drawn.float() / 255


class Twice(nn.Module):
    """A convolution that is called twice, of whose results the second is used alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8 * 8 * 8, 3)

    def forward(self, x: Numbers) -> Numbers:
        """Return outputs, (N, 3)."""
        x = self.relu(self.shared(self.relu(self.stem(x))))
        return self.fc(self.relu(self.shared(x)).flatten(1))


def residual(
    weights: list[int],
    activations: list[int],
    start: str | None = None,
    fill: bool = False,
    convolved: bool = False,
) -> tuple[Candidates, ModelTable]:
    """Return the network with all of some widths, and its table at the highest."""
    return candidates_of(lambda: Residual(convolved), weights, activations, start, fill)


def candidates_of(
    make: Callable[[], nn.Module],
    weights: list[int],
    activations: list[int],
    start: str | None = None,
    fill: bool = False,
) -> tuple[Candidates, ModelTable]:
    """Return the same of any network of such images."""
    torch.manual_seed(3)
    state = make().state_dict()
    tables, networks = {}, {}
    for bits in sorted({*weights, *activations}):
        own = make()
        own.load_state_dict(state)
        networks[bits], tables[bits] = quantize(
            own,
            lambda bits=bits, **given: LsqWeight(**{"bits": bits, **given}),
            lambda bits=bits, **given: LsqActivation(**{"bits": bits, **given}),
            (),
            torch.zeros(1, *BATCH[1:]),
        )
    table = tables[max(tables)]
    widths = {"weight": weights, "activation": activations}
    choices = Choices({Tensor(row.part, row.name): widths[row.part] for row in table.layers})
    return Candidates(networks, choices, [images()], start, fill), table
