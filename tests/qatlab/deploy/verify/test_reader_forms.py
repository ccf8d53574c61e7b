"""Programs that read files, on networks with what they once computed otherwise without a word."""

from __future__ import annotations

import pytest
import torch
from networks import EXAMPLE, PIXEL, PIXELS, convert
from torch import Tensor, nn

from qatlab.deploy.integer import compute, lower
from qatlab.deploy.onnx.qonnx import QonnxWriter
from qatlab.deploy.onnx.readers import READERS
from qatlab.deploy.verify.readers import InReader


class Block(nn.Module):
    """Two layers that read one tensor, a sum of two sites, a stride of a 1x1 layer, an average."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.depthwise, self.point = nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.Conv2d(4, 6, 1)
        self.shortcut, self.behind = nn.Conv2d(4, 6, 1, 2), nn.BatchNorm2d(6)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.norm(self.stem(x)))
        y = self.point(self.relu2(self.depthwise(x)))
        x = self.relu3(y + self.behind(self.shortcut(x)))
        result: Tensor = self.fc(self.pool(x).flatten(1))
        return result


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["qonnx", "hls4ml"])
@pytest.mark.parametrize("method", ["sat", "lsq"])
def test_readers_compute_residual_and_depthwise_layers_and_averages(
    reader: str, method: str
) -> None:
    pytest.importorskip(reader)
    torch.manual_seed(1)
    network = lower(convert(Block(), method, 4), [PIXEL] * 3, EXAMPLE)
    file = QonnxWriter(network, 13, READERS[reader]).write({})
    form = InReader(reader, reader, file, "qonnx", network, 0.0)
    found = form((PIXELS / 255).float(), PIXELS).outputs
    assert torch.allclose(found, compute(network, PIXELS).outputs, rtol=1e-5, atol=1e-5)
