"""Float networks, with names made for globs."""

from qatlab.models.layer_graph import LayerGraph
from qatlab.models.lenet import LeNet
from qatlab.models.mobilenet import MobileNetV1, MobileNetV2
from qatlab.models.resnet import ResNet, SmallResNet

__all__ = ["LayerGraph", "LeNet", "MobileNetV1", "MobileNetV2", "ResNet", "SmallResNet"]
