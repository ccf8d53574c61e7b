"""Small networks with quantizers that have started, for the tests of their integer forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab import quant
from qatlab.deploy.integer import Codes
from qatlab.models.resnet import PaddedShortcut
from qatlab.quant.learned import ActivationQuantizer

PIXEL = Codes(0, 255, 1 / 255)
PIXELS = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
EXAMPLE = PIXELS[:1].double() / 255
METHODS: dict[str, tuple[Callable[..., quant.Quantizer], Callable[..., quant.Quantizer]]] = {
    "sat": (quant.SatWeight, quant.SatActivation),
    "lsq": (quant.LsqWeight, quant.LsqActivation),
    "lsq_plus": (quant.LsqWeight, quant.LsqPlusActivation),
    "dorefa": (quant.DorefaWeight, quant.PactActivation),
}


def convert(
    network: nn.Module,
    method: str = "sat",
    bits: int = 4,
    inputs_of_functions: bool = False,
    **more: Any,
) -> nn.Module:
    """Return the network with quantizers that have started, in float64, ready to be evaluated."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):  # some of its channels turn their input around
            nn.init.uniform_(norm.weight, -1.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    weight, activation = (partial(part, bits=bits) for part in METHODS[method])
    rules = [quant.Rule.parse(key, node) for key, node in more.items()]
    images = PIXELS / 255
    model, _ = quant.quantize(
        network.eval(), weight, activation, rules, images[:1], inputs_of_functions
    )
    quant.start_quantizers(model, [images])
    for number, quantizer in enumerate(sites(model).values()):
        quantizer.parameter.data.mul_(0.97 - 0.0137 * number)  # no ratio that makes ties
        if isinstance(quantizer, quant.LsqPlusActivation):  # behind a ReLU they start at 0
            quantizer.offset.data.add_(quantizer.step_size.data * (-0.71, 0.57, 0.43)[number % 3])
    return model.double().eval()


def sites(model: nn.Module) -> dict[str, ActivationQuantizer]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, ActivationQuantizer)
    }


class Inception(nn.Module):
    """Branches with other steps, which pooling, grouped and depthwise layers read together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.narrow = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU())
        self.pool, self.norm = nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.mixed, self.last = nn.Conv2d(16, 6, 1), nn.Conv2d(16, 2, 3, 1, 1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(8 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        joined = torch.cat([self.narrow(x), self.wide(x), self.pool(x)], 1)
        grouped = self.norm(self.depthwise(joined))
        x = torch.cat((self.mixed(joined), self.last(self.relu(grouped))), dim=1)
        result: Tensor = self.fc(torch.flatten(torch.relu(x), 1))
        return result


class Windows(nn.Module):
    """Pooling of all kinds, as functions and as modules, and ways to make a tensor flat."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.adaptive = nn.Conv2d(4, 6, 3, padding=1), nn.AdaptiveAvgPool2d(2)
        self.conv3, self.fc = nn.Conv2d(6, 4, 1), nn.Linear(10, 5)
        self.conv3.bias = nn.Parameter(torch.linspace(-0.5, 1.5, 4))  # not all are cut off

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.adaptive(torch.relu(self.conv2(x)))
        largest = F.adaptive_max_pool2d(x, 1)
        x = torch.cat([torch.relu(self.conv3(x)).mean((2, 3)), largest.view(x.size(0), -1)], 1)
        result: Tensor = self.fc(x)
        return result


class Residual(nn.Module):
    def __init__(self, shortcut: nn.Module, stride: int = 1, channels: int = 4) -> None:
        super().__init__()
        self.stem, self.stem_bn, self.stem_relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.conv = nn.Conv2d(4, channels, 3, stride, padding=1, groups=2, bias=False)
        self.bn, self.relu, self.shortcut = nn.BatchNorm2d(channels), nn.ReLU(), shortcut
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_relu(self.stem_bn(self.stem(x)))
        x = self.relu(self.bn(self.conv(x)) + self.shortcut(x))
        result: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return result


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "chain": lambda: nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6(), nn.MaxPool2d(3, 2, 1)),
        *(
            nn.Conv2d(6, 8, (2, 3), dilation=2, padding=(2, 1)),
            nn.ReLU(),
            nn.AvgPool2d(2, divisor_override=3),
        ),
        *(nn.Dropout(0.5), nn.Flatten(), nn.Linear(24, 5)),
    ),
    "bottleneck": lambda: nn.Sequential(  # a linear one: its site is signed
        *(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        *(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Flatten()),
        nn.Linear(8, 5, bias=False),
    ),
    "residual": lambda: Residual(nn.Identity()),
    "padded shortcut": lambda: Residual(PaddedShortcut(2, 4), 2, 8),
    "inception": Inception,
    "windows": Windows,
    "projected shortcut": lambda: Residual(nn.Conv2d(4, 8, 1, 2), 2, 8),
}
