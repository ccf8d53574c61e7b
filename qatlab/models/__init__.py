"""Float networks, with names made for globs; and those of other libraries."""

from qatlab.models.googlenet import GoogLeNet
from qatlab.models.layer_graph import LayerGraph
from qatlab.models.lenet import LeNet
from qatlab.models.mlperf_tiny import Autoencoder, DsCnn, ResNet8
from qatlab.models.mobilenet import MobileNetV1, MobileNetV2
from qatlab.models.resnet import ResNet, SmallResNet
from qatlab.models.squeezenet import SqueezeNet
from qatlab.models.timm_models import timm_model
from qatlab.models.torchvision_models import torchvision_model
from qatlab.models.vgg import VGG

__all__ = [
    "VGG",
    "Autoencoder",
    "DsCnn",
    "GoogLeNet",
    "LayerGraph",
    "LeNet",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "ResNet8",
    "SmallResNet",
    "SqueezeNet",
    "timm_model",
    "torchvision_model",
]
