"""SqueezeNet: 1x1 convolutions squeeze the channels that 1x1 and 3x3 ones expand again."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from qatlab.errors import wrong
from qatlab.models.starts import first_ones, init_he_normal

# Channels of the squeezing convolution and of each expanding one, of fire modules 2 to 9 (Iandola
# et al. 2016, table 1).
FIRES = (
    *((16, 64), (16, 64), (32, 128), (32, 128)),
    *((48, 192), (48, 192), (64, 256), (64, 256)),
)
# Channels and kernel of the first convolution, and the fire modules before a pooling, by version.
VERSIONS = {1.0: (96, 7, (4, 8)), 1.1: (64, 3, (3, 5))}


class Fire(nn.Module):
    """A convolution that squeezes the channels, and two that expand them side by side.

    Args:
        channels: of the input.
        squeezed: channels in between.
        width: channels of each of the two; the output has twice as many.
        batch_norm: put a batch norm behind each convolution, which then has no bias.
    """

    def __init__(self, channels: int, squeezed: int, width: int, batch_norm: bool) -> None:
        super().__init__()
        bias = not batch_norm
        self.squeeze = nn.Conv2d(channels, squeezed, 1, bias=bias)
        self.squeeze_bn = nn.BatchNorm2d(squeezed) if batch_norm else nn.Identity()
        self.squeeze_relu = nn.ReLU()
        self.expand1 = nn.Conv2d(squeezed, width, 1, bias=bias)
        self.expand1_bn = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.expand1_relu = nn.ReLU()
        self.expand3 = nn.Conv2d(squeezed, width, 3, padding=1, bias=bias)
        self.expand3_bn = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.expand3_relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, 2 * width, H, W)``."""
        x = self.squeeze_relu(self.squeeze_bn(self.squeeze(x)))
        y = self.expand1_relu(self.expand1_bn(self.expand1(x)))
        z = self.expand3_relu(self.expand3_bn(self.expand3(x)))
        return torch.cat((y, z), dim=1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.0 or 1.1 (Iandola et al. 2016, arXiv:1602.07360); 1.24 million parameters.

    Its last layer is a convolution, whose outputs pass a ReLU and are averaged over the image.
    Version 1.1, by the authors too, pools earlier: as accurate at 2.4 times less computation.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        version: 1.0, the paper's, or 1.1.
        batch_norm: put a batch norm behind each convolution but the last, which then has no bias.
            The paper's network has none.
        dropout: probability that an input of the last layer is dropped in training.
        halvings: how often height and width are halved, 0 to 4; the first ones are left out: by
            the stem, and by the pooling behind it.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        version: float = 1.1,
        batch_norm: bool = False,
        dropout: float = 0.5,
        halvings: int = 4,
    ) -> None:
        super().__init__()
        if version not in VERSIONS:
            raise wrong("model.version", version, "1.0, 1.1")
        if not 0 <= dropout < 1:
            raise wrong("model.dropout", dropout, "a probability in [0, 1)")
        channels, kernel, pooled = VERSIONS[version]
        stride, pool, *strides = first_ones([2] * 4, halvings)
        self.stem = nn.Conv2d(in_channels, channels, kernel, stride, bias=not batch_norm)
        self.stem_bn = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.stem_relu = nn.ReLU()
        self.stem_pool = _pool(pool)
        fires: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (squeezed, width) in enumerate(FIRES, start=2):
            fires[f"{number}"] = Fire(channels, squeezed, width, batch_norm)
            if number in pooled:
                fires[f"pool{number}"] = _pool(strides[pooled.index(number)])
            channels = 2 * width
        self.fires = nn.Sequential(fires)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.classifier_relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        init_he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        x = self.fires(self.stem_pool(self.stem_relu(self.stem_bn(self.stem(x)))))
        x = self.classifier_relu(self.classifier(self.dropout(x)))
        outputs: Tensor = self.flatten(self.pool(x))
        return outputs


def _pool(stride: int) -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True) if stride == 2 else nn.Identity()
