"""The networks of MLPerf Tiny that are nowhere else here: ResNet-8, DS-CNN and the autoencoder.

They are those of the benchmark's Keras scripts (Banbury et al. 2021, arXiv:2106.07597; MLCommons
Tiny), layer by layer: convolutions have biases in front of batch norms, too, and pad as TensorFlow
does. Parameters are counted as Keras counts them, with four for each channel of a batch norm:
scale, shift, running mean and running variance.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from qatlab.errors import ConfigError
from qatlab.models.mobilenet import SeparableBlock
from qatlab.models.starts import init_he_normal, same_padding


class TinyBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where channels change.

    Args:
        channels: of the input.
        width: channels of the output.
        stride: of the first convolution; 2 takes images of even height and width.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.pad, padding = same_padding(3, stride)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if channels != width:
            self.shortcut = nn.Conv2d(channels, width, 1, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, width, H / stride, W / stride)``."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(self.pad(x))))))
        result: Tensor = self.relu2(self.shortcut(x) + y)
        return result


class ResNet8(nn.Module):
    """ResNet-8 of MLPerf Tiny's image classification: 78,666 parameters for CIFAR-10.

    Three blocks as in :class:`~qatlab.models.SmallResNet`, with convolutions for shortcuts, of
    which none has a batch norm. Source: ``resnet_v1_eembc``.

    Args:
        num_classes: outputs.
        in_channels: channels of the images, whose height and width are multiples of 4.
        width: channels of the first block; each further one has twice as many.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int = 16) -> None:
        super().__init__()
        _check_width(width)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.stem_bn = nn.BatchNorm2d(width)
        self.stem_relu = nn.ReLU()
        self.blocks = nn.Sequential(
            TinyBlock(width, width, 1),
            TinyBlock(width, 2 * width, 2),
            TinyBlock(2 * width, 4 * width, 2),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(4 * width, num_classes)
        init_he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        x = self.blocks(self.stem_relu(self.stem_bn(self.stem(x))))
        outputs: Tensor = self.classifier(self.flatten(self.pool(x)))
        return outputs


class DsCnn(nn.Module):
    """DS-CNN of MLPerf Tiny's keyword spotting: 24,908 parameters for 12 words.

    A 10x4 convolution, then depthwise and pointwise ones in turn (Zhang et al. 2017,
    arXiv:1711.07128, the small one), for 49 moments of 10 coefficients. Of the 9 rows that the
    first convolution lacks, TensorFlow puts 4 above and 5 below.

    Args:
        num_classes: outputs.
        in_channels: channels of the images, whose height is odd and whose width is even.
        width: channels of all convolutions.
        dropout: probability that a value behind the first convolution is dropped in training; twice
            as many are in front of the average.
    """

    def __init__(
        self, num_classes: int, in_channels: int, width: int = 64, dropout: float = 0.2
    ) -> None:
        super().__init__()
        _check_width(width)
        if not 0 <= dropout < 0.5:
            raise ConfigError(
                f"model.dropout={dropout} is wrong. Accepted: a probability in [0, 0.5), as twice "
                "as many values are dropped in front of the average."
            )
        self.pad = nn.ZeroPad2d((1, 1, 4, 5))
        self.stem = nn.Conv2d(in_channels, width, (10, 4), 2)
        self.stem_bn = nn.BatchNorm2d(width)
        self.stem_relu = nn.ReLU()
        self.stem_dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(SeparableBlock(width, width, 1, bias=True) for _ in range(4)))
        self.dropout = nn.Dropout(2 * dropout)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(width, num_classes)
        init_he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        x = self.stem_dropout(self.stem_relu(self.stem_bn(self.stem(self.pad(x)))))
        x = self.pool(self.dropout(self.blocks(x)))
        outputs: Tensor = self.classifier(self.flatten(x))
        return outputs


class DenseBlock(nn.Module):
    """A linear layer with batch norm and ReLU."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.bn = nn.BatchNorm1d(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, width)``."""
        result: Tensor = self.relu(self.bn(self.linear(x)))
        return result


class Autoencoder(nn.Module):
    """The autoencoder of MLPerf Tiny's anomaly detection: 269,992 parameters for 640 values.

    Four blocks, a narrow one and four blocks, then a linear layer that returns as many values as
    there are in an image (the baseline of DCASE 2020, task 2; ``get_model``). For
    ``loss=reconstruction``.

    Args:
        in_channels: channels of the images.
        image_size: height and width of the images.
        width: outputs of the wide blocks.
        bottleneck: outputs of the narrow one.
    """

    def __init__(
        self, in_channels: int, image_size: Sequence[int], width: int = 128, bottleneck: int = 8
    ) -> None:
        super().__init__()
        _check_width(width)
        if type(bottleneck) is not int or bottleneck < 1:
            raise ConfigError(
                f"model.bottleneck={bottleneck!r} is wrong. Accepted: a whole number above 0."
            )
        height, columns = image_size
        values = in_channels * height * columns
        widths = (values, width, width, width, width, bottleneck, width, width, width, width)
        self.flatten = nn.Flatten()
        self.blocks = nn.Sequential(*map(DenseBlock, widths[:-1], widths[1:]))
        self.last = nn.Linear(width, values)
        self.unflatten = nn.Unflatten(1, (in_channels, height, columns))

    def forward(self, x: Tensor) -> Tensor:
        """Return images ``(N, in_channels, H, W)`` for images of the same shape."""
        images: Tensor = self.unflatten(self.last(self.blocks(self.flatten(x))))
        return images


def _check_width(width: int) -> None:
    if type(width) is not int or width < 1:
        raise ConfigError(f"model.width={width!r} is wrong. Accepted: a whole number above 0.")
