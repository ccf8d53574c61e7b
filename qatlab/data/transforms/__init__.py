"""Transforms of images, most of them named after those of N2D2."""

from qatlab.data.transforms.color import ChannelExtraction, ColorSpace
from qatlab.data.transforms.distortion import Distortion, RandomAffine
from qatlab.data.transforms.erasing import RandomErasing
from qatlab.data.transforms.filters import GradientFilter, Morphology, WallisFilter
from qatlab.data.transforms.geometry import Flip, PadCrop, RandomResizeCrop, Rescale, Reshape
from qatlab.data.transforms.levels import Equalize, Normalize, Threshold
from qatlab.data.transforms.slices import SliceExtraction
from qatlab.data.transforms.torchvision import Torchvision
from qatlab.data.transforms.transform import Transform
from qatlab.data.transforms.values import RangeAffine

__all__ = [
    "ChannelExtraction",
    "ColorSpace",
    "Distortion",
    "Equalize",
    "Flip",
    "GradientFilter",
    "Morphology",
    "Normalize",
    "PadCrop",
    "RandomAffine",
    "RandomErasing",
    "RandomResizeCrop",
    "RangeAffine",
    "Rescale",
    "Reshape",
    "SliceExtraction",
    "Threshold",
    "Torchvision",
    "Transform",
    "WallisFilter",
]
