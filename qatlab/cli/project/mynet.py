"""The network of this project: any class of nn.Module, or function that returns one."""

from torch import Tensor, nn


class Net(nn.Module):
    """Three convolutions and a linear layer.

    Args:
        num_classes: outputs; taken from the data, because there is an argument of this name.
        in_channels: channels of the images; likewise. Both may be left out.
        width: channels of the first convolution; the value stands in conf/model/mynet.yaml.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *convolution(in_channels, width, stride=1),
            *convolution(width, 2 * width, stride=2),
            *convolution(2 * width, 4 * width, stride=2),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return a number for each class, (N, num_classes), of images (N, C, H, W) from 0 to 1."""
        x = self.pool(self.features(images)).flatten(1)
        logits: Tensor = self.classifier(x)
        return logits


def convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """Return a 3x3 convolution with its batch norm and ReLU."""
    return [
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]
