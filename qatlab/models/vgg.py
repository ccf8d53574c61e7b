"""VGG: stages of 3x3 convolutions, and three fully-connected layers."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from qatlab.errors import wrong
from qatlab.models.starts import first_ones, init_he_normal

WIDTHS = (64, 128, 256, 512, 512)  # channels of each stage
# Convolutions of each stage, by depth (Simonyan and Zisserman 2014, table 1).
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """VGG-11, 13, 16 or 19 (Simonyan and Zisserman 2014, arXiv:1409.1556).

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        depth: layers with weights: 11, 13, 16 or 19.
        batch_norm: put a batch norm behind each convolution, which then has no bias. The paper's
            networks have none.
        hidden: outputs of the first two fully-connected layers.
        pooled: height and width of what the first fully-connected layer reads: maxima over parts
            of the last map, which is of this size for images of 224x224.
        dropout: probability that an input of the last two layers is dropped in training.
        halvings: how often height and width are halved, 0 to 5; the poolings of the first stages
            are left out.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        depth: int = 16,
        batch_norm: bool = True,
        hidden: int = 4096,
        pooled: int = 7,
        dropout: float = 0.5,
        halvings: int = 5,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise wrong("model.depth", depth, map(str, DEPTHS))
        for key, value in (("hidden", hidden), ("pooled", pooled)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise wrong(f"model.{key}", value, "a whole number above 0")
        if not 0 <= dropout < 1:
            raise wrong("model.dropout", dropout, "a probability in [0, 1)")
        strides = first_ones([2] * len(WIDTHS), halvings)
        stages, channels = [], in_channels
        for width, count, stride in zip(WIDTHS, DEPTHS[depth], strides, strict=True):
            stages.append(_stage(channels, width, count, stride, batch_norm))
            channels = width
        self.stages = nn.Sequential(*stages)
        # Maxima, not averages: what was quantized stays so.
        self.pool = nn.AdaptiveMaxPool2d(pooled)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(channels * pooled**2, hidden)
        self.fc1_relu = nn.ReLU()
        self.dropout1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc2_relu = nn.ReLU()
        self.dropout2 = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, num_classes)
        init_he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        x = self.flatten(self.pool(self.stages(x)))
        x = self.dropout1(self.fc1_relu(self.fc1(x)))
        x = self.dropout2(self.fc2_relu(self.fc2(x)))
        outputs: Tensor = self.classifier(x)
        return outputs


def _stage(channels: int, width: int, count: int, stride: int, batch_norm: bool) -> nn.Sequential:
    """Return ``conv1``, ``bn1``, ``relu1``, ``conv2``, ... and ``pool``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, count + 1):
        layers[f"conv{number}"] = nn.Conv2d(channels, width, 3, padding=1, bias=not batch_norm)
        if batch_norm:
            layers[f"bn{number}"] = nn.BatchNorm2d(width)
        layers[f"relu{number}"] = nn.ReLU()
        channels = width
    layers["pool"] = nn.MaxPool2d(2) if stride == 2 else nn.Identity()
    return nn.Sequential(layers)
