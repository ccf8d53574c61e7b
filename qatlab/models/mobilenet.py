"""MobileNet-V1 and V2: depthwise and pointwise convolutions in turn."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from qatlab.errors import wrong
from qatlab.models.starts import first_ones, init_he_normal, same_padding

# Channels and stride of each block (Howard et al. 2017, table 1).
V1_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)
# Factor of the expansion, channels, blocks and first stride of each stage (Sandler et al. 2018,
# table 2).
V2_STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


class SeparableBlock(nn.Module):
    """A 3x3 depthwise convolution and a 1x1 pointwise one, each with batch norm and ReLU.

    Args:
        channels: of the input.
        width: channels of the output.
        stride: of the depthwise convolution.
        bias: give the convolutions a bias.
        same: pad as TensorFlow does, see :func:`~qatlab.models.starts.same_padding`.
    """

    def __init__(
        self, channels: int, width: int, stride: int, bias: bool = False, same: bool = False
    ) -> None:
        super().__init__()
        self.pad, padding = same_padding(3, stride) if same else (nn.Identity(), 1)
        self.depthwise = nn.Conv2d(
            channels, channels, 3, stride, padding, groups=channels, bias=bias
        )
        self.depthwise_bn = nn.BatchNorm2d(channels)
        self.depthwise_relu = nn.ReLU()
        self.pointwise = nn.Conv2d(channels, width, 1, bias=bias)
        self.pointwise_bn = nn.BatchNorm2d(width)
        self.pointwise_relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, width, H / stride, W / stride)``."""
        x = self.depthwise_relu(self.depthwise_bn(self.depthwise(self.pad(x))))
        result: Tensor = self.pointwise_relu(self.pointwise_bn(self.pointwise(x)))
        return result


class MobileNetV1(nn.Module):
    """MobileNet-V1 (Howard et al. 2017, arXiv:1704.04861); 4.2 million weights for 1,000 classes.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        width: factor on all numbers of channels, such as 1.0, 0.75, 0.5 or 0.25.
        halvings: how often height and width are halved, 0 to 5; without the first two an image of
            32x32 ends as 4x4, as one of 128x128 does with all.
        bias: give the convolutions a bias, which a batch norm makes superfluous: MLPerf Tiny's
            network has them, 221,794 parameters with ``width`` 0.25 and 2 classes (as Keras counts
            them, four for each channel of a batch norm).
        same: pad as TensorFlow does, images of even height and width wherever they are halved.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        width: float = 1.0,
        halvings: int = 5,
        bias: bool = False,
        same: bool = False,
    ) -> None:
        super().__init__()
        scaled = _scaled(width)
        strides = first_ones([2, *(stride for _, stride in V1_BLOCKS)], halvings)
        channels = scaled(32)
        self.pad, padding = same_padding(3, strides[0]) if same else (nn.Identity(), 1)
        self.stem = nn.Conv2d(in_channels, channels, 3, strides[0], padding, bias=bias)
        self.stem_bn = nn.BatchNorm2d(channels)
        self.stem_relu = nn.ReLU()
        blocks = []
        for (wide, _), stride in zip(V1_BLOCKS, strides[1:], strict=True):
            blocks.append(SeparableBlock(channels, scaled(wide), stride, bias, same))
            channels = scaled(wide)
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, num_classes)
        init_he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        x = self.blocks(self.stem_relu(self.stem_bn(self.stem(self.pad(x)))))
        outputs: Tensor = self.classifier(self.flatten(self.pool(x)))
        return outputs


class InvertedResidual(nn.Module):
    """A pointwise expansion, a depthwise convolution, and a linear bottleneck.

    Args:
        channels: of the input.
        width: channels of the output; with as many as in the input and stride 1, both are added.
        stride: of the depthwise convolution.
        factor: channels inside, in those of the input; 1 has no expansion.
    """

    def __init__(self, channels: int, width: int, stride: int, factor: int) -> None:
        super().__init__()
        inside = channels * factor
        self.expand: nn.Module = nn.Identity()
        self.expand_bn: nn.Module = nn.Identity()
        self.expand_relu: nn.Module = nn.Identity()
        if factor > 1:
            self.expand = nn.Conv2d(channels, inside, 1, bias=False)
            self.expand_bn = nn.BatchNorm2d(inside)
            self.expand_relu = nn.ReLU6()
        self.depthwise = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(inside)
        self.depthwise_relu = nn.ReLU6()
        self.project = nn.Conv2d(inside, width, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(width)
        self.adds = channels == width and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, width, H / stride, W / stride)``."""
        y = self.expand_relu(self.expand_bn(self.expand(x)))
        y = self.depthwise_relu(self.depthwise_bn(self.depthwise(y)))
        result: Tensor = self.project_bn(self.project(y))
        return x + result if self.adds else result


class MobileNetV2(nn.Module):
    """MobileNet-V2 (Sandler et al. 2018, arXiv:1801.04381); 3.5 million weights for 1,000 classes.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        width: factor on all numbers of channels but, below 1, that of the last convolution.
        dropout: probability that an input of the classifier is dropped in training.
        halvings: how often height and width are halved, 0 to 5; without the first two an image of
            32x32 ends as 4x4, as one of 128x128 does with all.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        width: float = 1.0,
        dropout: float = 0.2,
        halvings: int = 5,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise wrong("model.dropout", dropout, "a probability in [0, 1)")
        scaled = _scaled(width)
        strides = first_ones([2, *(stage[3] for stage in V2_STAGES)], halvings)
        channels = scaled(32)
        self.stem = nn.Conv2d(in_channels, channels, 3, strides[0], 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(channels)
        self.stem_relu = nn.ReLU6()
        blocks = []
        for (factor, wide, count, _), first in zip(V2_STAGES, strides[1:], strict=True):
            for stride in (first, *[1] * (count - 1)):
                blocks.append(InvertedResidual(channels, scaled(wide), stride, factor))
                channels = scaled(wide)
        self.blocks = nn.Sequential(*blocks)
        last = max(1280, scaled(1280))
        self.head = nn.Conv2d(channels, last, 1, bias=False)
        self.head_bn = nn.BatchNorm2d(last)
        self.head_relu = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes)
        init_he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        x = self.blocks(self.stem_relu(self.stem_bn(self.stem(x))))
        x = self.pool(self.head_relu(self.head_bn(self.head(x))))
        outputs: Tensor = self.classifier(self.dropout(self.flatten(x)))
        return outputs


def _scaled(width: float) -> Callable[[int], int]:
    """Return what multiplies numbers of channels, and rounds them to a multiple of 8.

    Rounding loses at most a tenth of the channels, as in the authors' own networks.
    """
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width <= 8:
        raise wrong("model.width", width, "a number above 0, up to 8")

    def scaled(channels: int) -> int:
        rounded = max(8, int(channels * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels * width else rounded

    return scaled
