"""Residual networks: for photographs (ResNet-18, 34, 50) and for 32x32 images (20, 32, 56)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.errors import wrong
from qatlab.models.starts import first_ones, init_he_normal

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # of each stage, by depth


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, figure 5 left).

    Args:
        channels: of the input.
        width: channels of the output.
        stride: of the first convolution.
        projects: whether a shortcut that changes the shape is a 1x1 convolution; if not, it takes
            every ``stride``-th pixel and fills up with channels of zeros, without parameters.
    """

    widening = 1  # channels of the output, in widths

    def __init__(self, channels: int, width: int, stride: int, projects: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(channels, width, stride, projects)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, width, H / stride, W / stride)``."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu2(y + self.shortcut(x))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut (He et al. 2015, figure 5 right).

    The stride is that of the 3x3 convolution, as in later implementations, which gain half a
    percent by it.

    Args:
        channels: of the input.
        width: channels inside; the output has four times as many.
        stride: of the 3x3 convolution.
    """

    widening = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(channels, 4 * width, stride, projects=True)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, 4 * width, H / stride, W / stride)``."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(y)))))
        result: Tensor = self.relu3(y + self.shortcut(x))
        return result


class ResNet(nn.Module):
    """ResNet-18, 34 or 50 for photographs (He et al. 2015, table 1).

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        depth: 18, 34 or 50.
        width: channels of the first stage; each further stage has twice as many.
        halvings: how often height and width are halved, 0 to 5; the first ones are left out: by
            the stem, whose kernel is then 3x3, and by the pooling behind it.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        depth: int,
        width: int = 64,
        halvings: int = 5,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            of_other = "model=resnet20 has depths 20, 32 and 56."
            raise wrong("model.depth", depth, map(str, BLOCKS), of_other)
        _check_width(width)
        block = Bottleneck if depth >= 50 else BasicBlock
        stride, pool, *strides = first_ones([2, 2, 1, 2, 2, 2], halvings)
        kernel = 7 if stride == 2 else 3
        self.stem = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.stem_relu = nn.ReLU()
        self.stem_pool = nn.MaxPool2d(3, 2, 1) if pool == 2 else nn.Identity()
        self.stages = _stages(block, width, BLOCKS[depth], strides)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(8 * width * block.widening, num_classes)
        init_he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        x = self.stages(self.stem_pool(self.stem_relu(self.stem_bn(self.stem(x)))))
        outputs: Tensor = self.classifier(self.flatten(self.pool(x)))
        return outputs


class SmallResNet(nn.Module):
    """ResNet-20, 32, 56, ... for 32x32 images (He et al. 2015, section 4.2).

    Three stages of ``(depth - 2) / 6`` blocks with shortcuts without parameters (option A).

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        depth: layers with weights: 6 n + 2.
        width: channels of the first stage; each further stage has twice as many.
    """

    def __init__(self, num_classes: int, in_channels: int, depth: int, width: int = 16) -> None:
        super().__init__()
        count, rest = divmod(depth - 2, 6)
        if rest or count < 1:
            of_other = "model=resnet18 has depths 18, 34 and 50."
            raise wrong("model.depth", depth, "6 n + 2, such as 20, 32, 44, 56", of_other)
        _check_width(width)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.stem_relu = nn.ReLU()
        self.stages = _stages(BasicBlock, width, (count,) * 3, (1, 2, 2), projects=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(4 * width, num_classes)
        init_he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        x = self.stages(self.stem_relu(self.stem_bn(self.stem(x))))
        outputs: Tensor = self.classifier(self.flatten(self.pool(x)))
        return outputs


class PaddedShortcut(nn.Module):
    """A shortcut without parameters: every ``stride``-th pixel, and channels of zeros behind."""

    def __init__(self, stride: int, channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.channels = channels  # how many are added

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, C + channels, H / stride, W / stride)``."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.channels))


class Projection(nn.Module):
    """A shortcut that changes the shape by a 1x1 convolution."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, width, H / stride, W / stride)``."""
        result: Tensor = self.bn(self.conv(x))
        return result


def _shortcut(channels: int, width: int, stride: int, projects: bool) -> nn.Module:
    if channels == width and stride == 1:
        return nn.Identity()
    if projects:
        return Projection(channels, width, stride)
    return PaddedShortcut(stride, width - channels)


def _stages(
    block: type[BasicBlock | Bottleneck],
    width: int,
    counts: Sequence[int],
    strides: Sequence[int],
    **options: bool,
) -> nn.Sequential:
    """Return the stages; each has twice the channels of the one before, its first block strides."""
    channels, stages = width, []
    for number, (count, first) in enumerate(zip(counts, strides, strict=True)):
        blocks = []
        for stride in (first, *[1] * (count - 1)):
            blocks.append(block(channels, width << number, stride, **options))
            channels = (width << number) * block.widening
        stages.append(nn.Sequential(*blocks))
    return nn.Sequential(*stages)


def _check_width(width: int) -> None:
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise wrong("model.width", width, "a whole number above 0")
