"""LeNet-5 with batch norm, as the N2D2 manual trains it."""

from __future__ import annotations

from torch import Tensor, nn

from qatlab.errors import wrong


class LeNet(nn.Module):
    """Three 5x5 convolutions with batch norm, two fully-connected layers, for 32x32 images.

    Cell names are those of N2D2's ``LeNet-bn-SAT.ini``, which has no biases in any layer.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        dropout: probability that an input of the last layer is dropped in training.
        bias: give the fully-connected layers a bias.
    """

    def __init__(
        self, num_classes: int, in_channels: int, dropout: float = 0.5, bias: bool = False
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise wrong("model.dropout", dropout, "a probability in [0, 1)")
        self.conv1 = nn.Conv2d(in_channels, 6, 5, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(16, 120, 5, bias=False)
        self.bn3 = nn.BatchNorm2d(120)
        self.relu3 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(120, 84, bias=bias)
        self.relu4 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(84, num_classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` for images ``(N, in_channels, 32, 32)``."""
        x = self.pool1(self.relu1(self.bn1(self.conv1(x))))
        x = self.pool2(self.relu2(self.bn2(self.conv2(x))))
        x = self.flatten(self.relu3(self.bn3(self.conv3(x))))
        outputs: Tensor = self.fc2(self.dropout(self.relu4(self.fc1(x))))
        return outputs
