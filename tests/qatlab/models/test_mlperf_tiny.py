"""The networks of MLPerf Tiny: their published parameters, and TensorFlow's padding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError
from qatlab.models import Autoencoder, DsCnn, MobileNetV1, ResNet8


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel + outputs  # weights and biases


def depthwise_and_pointwise(inputs: int, outputs: int) -> int:
    norms = 4 * (inputs + outputs)  # Keras counts scale, shift, mean and variance
    return conv(1, inputs, 9) + conv(inputs, outputs, 1) + norms


# Of each layer, from the shapes in the benchmark's Keras scripts.
RESNET8 = [
    *(conv(3, 16, 9), conv(16, 16, 9), conv(16, 16, 9)),
    *(conv(16, 32, 9), conv(32, 32, 9), conv(16, 32, 1)),
    *(conv(32, 64, 9), conv(64, 64, 9), conv(32, 64, 1)),
    4 * (3 * 16 + 2 * 32 + 2 * 64),
    conv(64, 10, 1),
]
MOBILENET = [
    *(conv(3, 8, 9), 4 * 8),
    *(depthwise_and_pointwise(8, 16), depthwise_and_pointwise(16, 32)),
    *(depthwise_and_pointwise(32, 32), depthwise_and_pointwise(32, 64)),
    *(depthwise_and_pointwise(64, 64), depthwise_and_pointwise(64, 128)),
    5 * depthwise_and_pointwise(128, 128),
    *(depthwise_and_pointwise(128, 256), depthwise_and_pointwise(256, 256)),
    conv(256, 2, 1),
]
DS_CNN = [conv(1, 64, 40), 4 * 64, 4 * depthwise_and_pointwise(64, 64), conv(64, 12, 1)]
AUTOENCODER = [
    *(conv(640, 128, 1), 3 * conv(128, 128, 1), conv(128, 8, 1)),
    *(conv(8, 128, 1), 3 * conv(128, 128, 1), conv(128, 640, 1)),
    4 * (8 * 128 + 8),
]
vww = partial(MobileNetV1, 2, 3, width=0.25, bias=True, same=True)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[int], int]] = {
    "resnet8": (partial(ResNet8, 10, 3), (3, 32, 32), RESNET8, 78_666),
    "mobilenet_v1": (vww, (3, 96, 96), MOBILENET, 221_794),
    "ds_cnn": (partial(DsCnn, 12, 1), (1, 49, 10), DS_CNN, 24_908),
    "autoencoder": (partial(Autoencoder, 1, [5, 128]), (1, 5, 128), AUTOENCODER, 269_992),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_published_parameters(name: str) -> None:
    make, _, layers, published = NETWORKS[name]
    model = make()
    statistics = [b for n, b in model.named_buffers() if n.endswith(("_mean", "_var"))]
    count = sum(values.numel() for values in (*model.parameters(), *statistics))
    assert count == sum(layers) == published


def amounts(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's: ceil(size / stride) outputs, and of an odd number of zeros one more behind."""
    lacking = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return lacking // 2, lacking - lacking // 2


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1", "ds_cnn"])
def test_convolutions_pad_as_tensorflow_does(name: str) -> None:
    make, shape, _, _ = NETWORKS[name]
    model = make().eval()
    padded: list[Tensor] = []
    checked = []

    def check(layer: nn.Conv2d, args: tuple[Tensor], output: Tensor) -> None:
        x = padded.pop() if padded else args[0]  # what a module for padding was given
        sizes, kernel, stride = x.shape[2:], layer.kernel_size, layer.stride
        rows, columns = map(amounts, sizes, kernel, stride)
        expected = F.conv2d(
            F.pad(x, (*columns, *rows)), layer.weight, layer.bias, stride, groups=layer.groups
        )
        assert torch.allclose(output, expected, atol=1e-5)
        checked.append((rows, columns))

    def keep(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        padded.append(args[0])

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(check)  # type: ignore[arg-type]
        elif isinstance(module, nn.ZeroPad2d):
            module.register_forward_hook(keep)  # type: ignore[arg-type]
    with torch.no_grad():
        model(torch.rand(1, *shape))
    assert len(checked) == {"resnet8": 9, "mobilenet_v1": 27, "ds_cnn": 9}[name]
    lopsided = sum(before != after for sides in checked for before, after in sides)
    assert lopsided == {"resnet8": 2 * 2, "mobilenet_v1": 5 * 2, "ds_cnn": 1}[name]


@pytest.mark.parametrize(
    ("name", "output"),
    [("resnet8", (10,)), ("mobilenet_v1", (2,)), ("ds_cnn", (12,)), ("autoencoder", (1, 5, 128))],
)
def test_outputs_have_the_shape_that_their_loss_takes(name: str, output: tuple[int, ...]) -> None:
    make, shape, _, _ = NETWORKS[name]
    assert make()(torch.rand(2, *shape)).shape == (2, *output)


def test_the_map_that_ds_cnn_averages_is_25x5() -> None:
    model, shapes = DsCnn(12, 1), []
    model.pool.register_forward_hook(lambda m, args, out: shapes.append(args[0].shape[1:]))
    model(torch.zeros(2, 1, 49, 10))
    assert shapes == [(64, 25, 5)]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (partial(ResNet8, 10, 3, width=0), r"model\.width=0 is wrong. Accepted: a whole number"),
        (partial(DsCnn, 12, 1, dropout=0.5), r"model\.dropout=0\.5 is wrong\. .* \[0, 0\.5\)"),
        (partial(Autoencoder, 1, [5, 128], bottleneck=0), r"model\.bottleneck=0 is wrong"),
    ],
)
def test_wrong_arguments_are_reported(make: partial[nn.Module], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
