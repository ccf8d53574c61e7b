"""GoogLeNet, also called Inception-V1: convolutions of several sizes side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qatlab.errors import wrong
from qatlab.models.starts import first_ones, init_he_normal

# Channels of each inception module, in the columns of Szegedy et al. 2014, table 1: 1x1, 3x3
# reduce, 3x3, 5x5 reduce, 5x5, pool proj.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """Four branches, whose channels are concatenated (Szegedy et al. 2014, figure 2b).

    Args:
        channels: of the input.
        widths: channels of each convolution, a row of :data:`MODULES`.
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, reduced3, three, reduced5, five, project = widths
        self.conv1, self.conv1_bn, self.conv1_relu = _unit(channels, one, 1)
        self.reduce3, self.reduce3_bn, self.reduce3_relu = _unit(channels, reduced3, 1)
        self.conv3, self.conv3_bn, self.conv3_relu = _unit(reduced3, three, 3)
        self.reduce5, self.reduce5_bn, self.reduce5_relu = _unit(channels, reduced5, 1)
        self.conv5, self.conv5_bn, self.conv5_relu = _unit(reduced5, five, 5)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.project, self.project_bn, self.project_relu = _unit(channels, project, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, C, H, W)`` with as many channels as the last layers of the branches have."""
        one = self.conv1_relu(self.conv1_bn(self.conv1(x)))
        three = self.reduce3_relu(self.reduce3_bn(self.reduce3(x)))
        three = self.conv3_relu(self.conv3_bn(self.conv3(three)))
        five = self.reduce5_relu(self.reduce5_bn(self.reduce5(x)))
        five = self.conv5_relu(self.conv5_bn(self.conv5(five)))
        pooled = self.project_relu(self.project_bn(self.project(self.pool(x))))
        return torch.cat((one, three, five, pooled), dim=1)


class GoogLeNet(nn.Module):
    """GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842); 7 million parameters for 1,000 classes.

    With a batch norm behind each convolution instead of the paper's two normalisations of local
    responses, and without its two auxiliary classifiers, which batch norms make needless (Ioffe and
    Szegedy 2015, arXiv:1502.03167).

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        dropout: probability that an input of the last layer is dropped in training.
        halvings: how often height and width are halved, 0 to 5; the first ones are left out: by
            the stem, whose first kernel is then 3x3, and by the poolings behind it.
    """

    def __init__(
        self, num_classes: int, in_channels: int, dropout: float = 0.4, halvings: int = 5
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise wrong("model.dropout", dropout, "a probability in [0, 1)")
        strides = first_ones([2] * 5, halvings)
        kernel = 7 if strides[0] == 2 else 3
        self.stem1, self.stem1_bn, self.stem1_relu = _unit(in_channels, 64, kernel, strides[0])
        self.pool1 = _pool(strides[1])
        self.stem2, self.stem2_bn, self.stem2_relu = _unit(64, 64, 1)
        self.stem3, self.stem3_bn, self.stem3_relu = _unit(64, 192, 3)
        self.pool2 = _pool(strides[2])
        channels = 192
        for name, widths in MODULES.items():
            self.add_module(f"inception{name}", Inception(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.pool3 = _pool(strides[3])
        self.pool4 = _pool(strides[4])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        init_he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        x = self.pool1(self.stem1_relu(self.stem1_bn(self.stem1(x))))
        x = self.stem2_relu(self.stem2_bn(self.stem2(x)))
        x = self.pool2(self.stem3_relu(self.stem3_bn(self.stem3(x))))
        pools = {"4a": self.pool3, "5a": self.pool4}  # before these modules
        for name in MODULES:
            if name in pools:
                x = pools[name](x)
            x = self.get_submodule(f"inception{name}")(x)
        outputs: Tensor = self.classifier(self.dropout(self.flatten(self.pool(x))))
        return outputs


def _unit(
    channels: int, width: int, kernel: int, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
    """Return a convolution that keeps the size but for its stride, its norm and its activation."""
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(width), nn.ReLU()


def _pool(stride: int) -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True) if stride == 2 else nn.Identity()
