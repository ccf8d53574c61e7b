"""Networks as people write them: each stands for one kind of thing that is met in the world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

CHANNELS = 3  # of all images
SIZE = (12, 12)  # of images, rows and columns, where SIZES has no other
CLASSES = 5


class PoolTwice(nn.Module):
    """A tutorial's network: one pooling module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2 = nn.Linear(6 * 2 * 2, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        return self.fc2(x)


class Pruned(PoolTwice):
    """Weights of which some are kept at zero."""

    def __init__(self) -> None:
        super().__init__()
        prune.l1_unstructured(self.conv1, "weight", 0.5)
        prune.ln_structured(self.conv2, "weight", 0.25, 2, 0)
        prune.random_unstructured(self.fc1, "weight", 0.7)


class LogSoftmaxAtTheEnd(nn.Module):
    """A last log_softmax over the classes, and dropout modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(6 * 4 * 4, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return F.log_softmax(self.fc2(self.dropout2(x)), dim=1)


class DropoutFunctions(nn.Module):
    """Pooling in front of the activation, dropout as a function, a view with sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
        self.conv2_drop = nn.Dropout2d()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 3))
        x = x.view(-1, 8)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc2(x), -1)


class NormBehindPool(nn.Module):
    """A batch norm with factors below 0 behind a largest value: it takes the smallest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 10, 3, padding="same"), nn.BatchNorm2d(10)
        self.conv2, self.norm2 = nn.Conv2d(10, 8, 1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(F.max_pool2d(self.conv(x), 3, 2, 1)))
        x = self.norm2(F.max_pool2d(self.conv2(x), 2))  # its site is signed
        return self.fc(x.amax([2, 3]))


class Clamps(nn.Module):
    """Activation functions that clip, and paddings by a word."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding="same", dilation=2)
        self.conv3 = nn.Conv2d(6, 6, 2, padding="same")
        self.activation, self.fc = nn.Hardtanh(-1, 1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.clamp(self.conv1(x), 0, 6)
        x = F.hardtanh(self.conv2(x), 0.0, 6.0)
        x = self.activation(self.conv3(x))
        return self.fc(x.mean(3).mean(2))


class NumbersAndFactors(nn.Module):
    """Sums with ``alpha=``, numbers on either side, and a parameter for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.scale, self.fc = nn.Parameter(torch.randn(6, 1, 1)), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.conv1(x))
        b = self.conv2(a)
        y = torch.add(a, b, alpha=0.5)
        y = torch.sub(y, a, alpha=2)
        y = (1 - y) * 0.5 + b * self.scale
        y = 0 + y
        return self.fc(F.relu(y).mean((-1, -2), keepdim=True).flatten(1))


class SizesOfTensors(nn.Module):
    """Sizes that are read from the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm(self.conv(x)))
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)


class ChannelsPaddedOnBothSides(nn.Module):
    """A shortcut without weights: every second pixel, and zeros for the channels it lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.norm, self.linear = nn.BatchNorm2d(8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        y = self.norm(self.conv2(x))
        y = y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        return self.linear(F.adaptive_avg_pool2d(F.relu(y), 1).squeeze(-1).squeeze(-1))


class NormsEverywhere(nn.Module):
    """Batch norms of the image, twice in a row, without affine, and behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3)
        self.norm1, self.norm2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False)
        self.fc1, self.norm3, self.fc2 = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm2(self.norm1(self.conv(self.norm0(x)))))
        x = x.mean((2, 3))
        return self.fc2(F.relu(self.norm3(self.fc1(x))))


class LinearAutoencoder(nn.Module):
    """An output that is an image again, of linear layers with norms."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm1 = nn.Linear(48, 16), nn.BatchNorm1d(16)
        self.fc2, self.norm2 = nn.Linear(16, 8), nn.BatchNorm1d(8)
        self.fc3 = nn.Linear(8, 48)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        y = x.reshape(n, -1)
        y = F.relu(self.norm1(self.fc1(y)))
        y = F.relu(self.norm2(self.fc2(y)))
        return self.fc3(y).reshape(n, 3, 4, 4)


class ShuffledOutput(nn.Module):
    """An output whose pixels are channels of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 12, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.conv2(F.max_pool2d(F.relu(self.conv1(x)), 2)))


class PixelsOfChannels(nn.Module):
    """Pixels that are channels, in front of the activation and of the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 12, 3, padding=1)
        self.shuffle, self.conv3 = nn.PixelShuffle(2), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(self.conv2(F.max_pool2d(F.relu(self.conv1(x)), 2)))
        return self.conv3(F.relu(y))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, channels, height, width = x.size()
    x = x.view(n, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(n, channels, height, width)


class Shuffled(nn.Module):
    """Halves of the channels, put together and shuffled; depthwise and grouped layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pointwise1 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.middle = nn.Conv2d(8, 8, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.pointwise2, self.grouped = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 8, 1, groups=2)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for _ in range(2):
            a, b = x.chunk(2, dim=1)
            b = F.relu(self.pointwise2(self.depthwise(F.relu(self.pointwise1(b)))))
            x = channel_shuffle(torch.cat((a, b), 1), 2)
        x = F.relu(self.grouped(F.channel_shuffle(F.relu(self.middle(x)), 4)))
        return self.fc(x.mean([2, 3]))


class ShuffledBeforeTheActivation(nn.Module):
    """Two layers whose channels are put together and shuffled in front of one activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.depthwise, self.fc = nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(channel_shuffle(torch.cat([self.conv1(x), self.conv2(x)], 1), 2))
        return self.fc(F.relu(self.depthwise(x)).mean((2, 3)))


class DepthwiseOfShuffledParts(nn.Module):
    """A depthwise layer with two outputs for each channel of two sites, which are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.depthwise, self.norm = nn.Conv2d(8, 16, 3, groups=8), nn.BatchNorm2d(16)
        self.pointwise, self.fc = nn.Conv2d(16, 6, 1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.conv1(x)), F.relu(self.conv2(x)) * 0.5], 1)
        x = F.relu(self.norm(self.depthwise(channel_shuffle(x, 4))))
        return self.fc(F.relu(self.pointwise(x)).mean((2, 3)))


class SplitsAndSlices(nn.Module):
    """Parts of accumulators, slices with steps, and permuted axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.conv2, self.conv3 = nn.Conv2d(5, 4, 1), nn.Conv2d(8, 6, 3)
        self.relu, self.fc = nn.ReLU(), nn.Linear(6 * 5 * 5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv0(x)
        a, b = torch.split(y, [3, 5], 1)
        branches = [self.relu(self.conv1(self.relu(a))), self.relu(self.conv2(self.relu(b)))]
        y = self.relu(self.conv3(torch.cat(branches, dim=1)))[:, :, 1:6, ::2]
        y = y.permute(0, 2, 3, 1)[:, :, :5, :]
        y = F.pad(y, (0, 0, 0, 0, 0, 0))
        y = F.adaptive_max_pool2d(y.permute(0, 3, 1, 2), 5)
        return self.fc(y.permute(0, 2, 3, 1).flatten(1))


class DenselyConnected(nn.Module):
    """Concatenations of what was concatenated, each with a norm and an activation in front."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2, 2)
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.norm3, self.fc = nn.BatchNorm2d(12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.norm2(x)))], 1)
        x = F.relu(self.norm3(self.pool(x)))
        return self.fc(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


class Averages(nn.Module):
    """Averages with each of their options, in front of activations and of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.conv2, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(4, CLASSES)
        self.inside = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.beyond = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(self.conv0(x))
        x = F.relu(torch.cat([x[:, 1:], x[:, :1]], 1))
        x = F.relu(self.conv1(self.beyond(x)))
        x = F.relu(F.avg_pool2d(self.conv2(x) + x, 3, 1, padding=1, count_include_pad=True))
        x = F.relu(F.avg_pool2d(self.conv2(x), 2, divisor_override=3))
        return self.fc(x.sum((2, 3)))


class Paddings(nn.Module):
    """Paddings of all modes, of some sides only, and of what is never the largest value."""

    def __init__(self) -> None:
        super().__init__()
        self.zeros, self.reflect = nn.ZeroPad2d((1, 0, 2, 1)), nn.ReflectionPad2d(1)
        self.conv0 = nn.Conv2d(3, 4, 3)
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate")
        self.conv2 = nn.Conv2d(4, 4, 3, padding=2, padding_mode="circular")
        self.conv3, self.fc = nn.Conv2d(4, 4, 3, stride=2), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv0(self.zeros(x)))
        x = F.relu(self.conv1(self.reflect(self.zeros(x))))
        x = F.relu(self.conv2(x))
        x = F.pad(x, [0, 1, 0, 1])
        x = F.relu(self.conv3(x))
        x = F.max_pool2d(F.pad(x, (1, 0, 0, 1), value=-float("inf")), 2)
        return self.fc(x.amax((2, 3)))


class Decoder(nn.Module):
    """A map that is made small and large again, beside what it was made of; and mirrored."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.up, self.more = nn.UpsamplingNearest2d(scale_factor=2), nn.Upsample(scale_factor=1.5)
        self.join, self.conv = nn.Conv2d(10, 4, 3), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down(x.flip(3)))
        y = F.relu(self.up(self.deep(x)))  # rounded in front of it
        x = F.relu(self.join(torch.cat([x, y], 1)))
        y = F.interpolate(F.max_pool2d(x, 2), size=x.shape[2:], mode="nearest")
        x = F.relu(self.conv(self.more(x + y)))
        return self.fc((x + torch.roll(x, (1, 2), (2, 3))).amax((2, 3)))


class Leaky(nn.Module):
    """Slopes below 0: a number, one parameter, and one for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.each, self.one, self.leaky = nn.PReLU(4), nn.PReLU(), nn.LeakyReLU(0.1)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.leaky(self.conv0(x))
        x = self.each(self.conv1(x))
        x = self.one(self.conv1(x))
        x = F.leaky_relu(self.conv1(x), 0.2)
        return self.fc(x.mean((2, 3)))


class DroppedBranches(nn.Module):
    """Branches that are dropped in training, layer scale, a sum in place, a last softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.drop = torchvision.ops.StochasticDepth(0.2, "row")
        self.layer_scale = nn.Parameter(torch.ones(4, 1, 1) * 0.3)
        self.fc, self.softmax = nn.Linear(4, CLASSES), nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv0(x))
        x = x + self.drop(self.layer_scale * self.conv1(x))
        x += F.relu(self.conv1(x))
        return self.softmax(self.fc(F.relu(x).mean((2, 3))))


class TransformedImage(nn.Module):
    """Channels of the image that are moved by numbers of their own, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        red = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
        green = torch.unsqueeze(x[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
        blue = torch.unsqueeze(x[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
        return self.fc(F.relu(self.conv(torch.cat((red, green, blue), 1))).mean((2, 3)))


class NormalisesItself(nn.Module):
    """Mean and deviation of the images as buffers of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, CLASSES)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.3])[None, :, None, None])
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.25])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv((x - self.mean) / self.std)).mean((2, 3)))


class CalledAgain(nn.Module):
    """Blocks, poolings and a classifier that are called several times, with other shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.mean, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.more, self.fewer = nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.relu(self.stem(x)))
        x = self.block(self.block(self.pool(x)))
        x = self.block(self.pool(x))
        x = F.relu(self.fewer(F.relu(self.more(x))))
        return self.fc(self.flat(self.mean(x))) + self.fc(x.flatten(2).mean(-1))


class Keywords(nn.Module):
    """All arguments by keyword, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(input=self.conv(x), inplace=True)
        x = F.max_pool2d(input=x, kernel_size=2, stride=2)
        x = F.avg_pool2d(kernel_size=2, input=x)
        x = torch.flatten(input=x, start_dim=1)
        x = torch.add(input=x, other=x, alpha=2)
        return self.fc(input=x)


class SpaceToDepth(nn.Module):
    """Pixels that become channels, as a function and by slices."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(16, 4, 3)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv0(F.pixel_unshuffle(x, 2)))
        even = [x[:, :, 0::2, 0::2], x[:, :, 1::2, 0::2]]
        x = torch.cat([*even, x[..., 0::2, 1::2], x[:, :, 1::2, 1::2]], 1)
        return self.fc(F.relu(self.conv1(F.pad(x, (1, 1, 1, 1)))).mean((2, 3)))


class TheSameChannelsTwice(nn.Module):
    """A tensor that is concatenated with itself, and sums over parts of other lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.conv2, self.fc = nn.Conv2d(4, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv0(x))
        y = F.relu(self.conv1(torch.cat([x, x], 1)) + self.conv2(x))
        z = torch.cat([F.relu(self.conv0(x[:, :3])), F.relu(self.conv2(x))[:, 2:6]], 1)
        return self.fc(F.relu(y + z).mean((2, 3)))


class FlatBeforeTheActivation(nn.Module):
    """A tensor that is made flat in front of its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=3), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x).flatten(1)))


class Functions(nn.Module):
    """Activation functions of all kinds, as modules, functions and methods, behind layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Hardswish(True)
        self.layers = nn.ModuleList(nn.Conv2d(6, 6, 1, bias=False) for _ in range(7))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(7))
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        functions = (
            *(F.silu, F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.mish),
            *(lambda x: F.elu(x, 0.7), F.hardsigmoid, lambda x: F.softplus(x, beta=2)),
        )
        for function, layer, norm in zip(functions, self.layers, self.norms, strict=True):
            x = function(norm(layer(x)))
        return self.fc(x.sigmoid().mean((2, 3))).tanh()


class FunctionsOfCodes(nn.Module):
    """Functions of the image, of a concatenation, of largest values, and of what a number moves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 2, 3)
        self.conv2, self.fc = nn.Conv2d(6, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        x = F.silu(torch.cat([self.conv(x) * 0.5, F.relu(self.other(x))], 1))
        x = F.hardswish(F.max_pool2d(self.conv2(x), 2))
        return self.fc((1 - torch.sigmoid(x)).mean((2, 3)))


class Gate(nn.Module):
    """A tensor that is multiplied by functions of it, and averaged without a site in between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=3), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.fc((x * torch.sigmoid(x)).mean((2, 3)))


class Excitation(nn.Module):
    """Squeeze-and-excitation, spatial attention, and products of maps, of parts and of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.space, self.other = nn.Conv2d(6, 1, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.dense, self.fc = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.conv(x)))
        gate = F.hardsigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))
        x = gate * x
        x = torch.mul(x, self.space(x).sigmoid())
        parts = torch.cat([x[:, :2], self.other(x)[:, 2:]], 1)
        x = F.relu(F.max_pool2d(parts * x + x * 0.5, 2))
        x = x.mean((2, 3))
        return self.fc(x * torch.tanh(self.dense(x)))


# Those that have sites in front of their functions.
IN_FRONT = (Functions, FunctionsOfCodes, Excitation)
WRITTEN: tuple[type[nn.Module], ...] = (
    *(PoolTwice, Pruned, LogSoftmaxAtTheEnd, DropoutFunctions, NormBehindPool, Clamps),
    *(NumbersAndFactors, SizesOfTensors, ChannelsPaddedOnBothSides, NormsEverywhere),
    *(LinearAutoencoder, ShuffledOutput, PixelsOfChannels, Shuffled, SplitsAndSlices),
    *(DenselyConnected, Averages, Paddings, Decoder, Leaky, DroppedBranches),
    *(TransformedImage, NormalisesItself, CalledAgain, Keywords, SpaceToDepth),
    *(TheSameChannelsTwice, FlatBeforeTheActivation, ShuffledBeforeTheActivation),
    *(DepthwiseOfShuffledParts, Gate, *IN_FRONT),
)
SIZES: Mapping[type[nn.Module], tuple[int, int]] = {
    PoolTwice: (14, 14),
    Pruned: (14, 14),
    LinearAutoencoder: (4, 4),
    ShuffledOutput: (8, 6),
    PixelsOfChannels: (8, 6),
    NormBehindPool: (9, 7),
    Averages: (13, 11),
    Paddings: (9, 7),
    ChannelsPaddedOnBothSides: (9, 7),
    Clamps: (7, 8),
    Shuffled: (6, 5),
    ShuffledBeforeTheActivation: (7, 6),
    DenselyConnected: (8, 6),
    TransformedImage: (6, 5),
    NormalisesItself: (6, 5),
    SpaceToDepth: (8, 12),
    TheSameChannelsTwice: (6, 5),
}
LAST: Mapping[type[nn.Module], str] = {  # what integers leave out
    LogSoftmaxAtTheEnd: "F.log_softmax({0}, 1)",
    DropoutFunctions: "F.log_softmax({0}, 1)",
    DroppedBranches: "torch.softmax({0}, 1)",
}


class Ending(nn.Module):
    """A convolution, its activation and a classifier, for what ends in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=3), nn.Linear(4, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)).mean((2, 3))


class TwoOutputs(Ending):
    """A tuple of two outputs."""

    def forward(self, x: Tensor) -> Any:
        features = self.features(x)
        return self.fc(features), features


class OutputsByName(Ending):
    """A dictionary of outputs."""

    def forward(self, x: Tensor) -> Any:
        return {"logits": self.fc(self.features(x))}


class GroupsAcrossParts(nn.Module):
    """A grouped layer one group of which reads two parts of a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1)
        self.grouped, self.fc = nn.Conv2d(8, 4, 3, groups=2), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([F.relu(self.conv1(x)), F.relu(self.conv2(x))], 1)
        return self.fc(F.relu(self.grouped(joined)).mean((2, 3)))


class PoolFlatActivation(nn.Module):
    """A largest value that is made flat in front of the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=3), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(F.max_pool2d(self.conv(x), 2).flatten(1)))


class ZerosInFrontOfPool(Ending):
    """Zeros around a site whose code 0 may stand for another number, and then a largest value."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.pad(F.relu(self.conv(x)), (0, 1, 1, 0)), 2)
        return self.fc(x.mean((2, 3)))


class SomePlacesOfAMap(nn.Module):
    """An output of some places of a map of sums, which no activation function has made codes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1)[:, :3]


class OutputOfParts(nn.Module):
    """An output that is a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).mean((2, 3))
        return torch.cat([self.one(x), self.other(x)], 1)


class GatedSums(Ending):
    """Sums, with no site behind them, that are multiplied by a gate."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc((x * F.relu(x)).mean((2, 3)))


class ProductOfLines(Ending):
    """Maps as lines that are multiplied."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.fc((x.flatten(2) * torch.sigmoid(x.flatten(2))).mean(2))


class Swish(Ending):
    """An activation function of sums, with no site in front of it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.silu(self.conv(x)).mean((2, 3)))


class OverlappingWindows(Ending):
    """An adaptive pooling whose windows overlap."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 3).amax((2, 3)))


class NewValues(Ending):
    """An upsampling whose values lie between those of the map."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(F.relu(self.conv(x)), scale_factor=2, mode="bilinear")
        return self.fc(x.mean((2, 3)))


class MeanOfChannels(Ending):
    """A mean over channels."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.fc((x - x.mean(1, keepdim=True)).mean((2, 3)))


# By what stands in the way: the layer that is named, and words of the sentence.
REFUSED: Mapping[type[nn.Module], tuple[str, str]] = {
    TwoOutputs: ("output", r"^the network returns a tuple of 2, .*: return one tensor\.$"),
    OutputsByName: ("output", r"^the network returns a dictionary of 1, .*: return one tensor\.$"),
    GroupsAcrossParts: ("grouped", r"^grouped: a group reads across the parts of a concatenation"),
    PoolFlatActivation: ("flatten", r"^flatten \(flatten: 1\) has an integer form only behind a"),
    SomePlacesOfAMap: ("output", r"^getitem \(getitem: .* reads sums that are not yet quantized"),
    OutputOfParts: ("output", r"^cat is a concatenation, which no output can be; put a layer"),
    GatedSums: (
        "mul",
        r"^mul \(mul\) multiplies conv, .*: set quant\.inputs_of_functions=true for a",
    ),
    ProductOfLines: (
        "mul",
        r"^mul \(mul\) multiplies tensors of shapes .* which has an integer fo",
    ),
    Swish: ("silu", r"^silu \(SiLU\) reads conv, .*: set quant\.inputs_of_functions=true for a"),
    OverlappingWindows: ("adaptive_avg_pool2d", r"only where its outputs divide its inputs, not"),
    NewValues: ("interpolate", r"^interpolate \(.* mode=bilinear, .*\) has no integer form\.$"),
    MeanOfChannels: ("mean", r"over rows and columns only: dim=\(2, 3\)\.$"),
}
