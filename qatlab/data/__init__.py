"""Small image data sets that live in memory, and the batches a network is trained on."""

from qatlab.data.batches import BatchLoader
from qatlab.data.images import ImageData
from qatlab.data.opencv_resize import resize_bilinear
from qatlab.data.sources import FashionMnist, ImageSource, LabelledImages, Mnist
from qatlab.data.synthetic import Synthetic

__all__ = [
    "BatchLoader",
    "FashionMnist",
    "ImageData",
    "ImageSource",
    "LabelledImages",
    "Mnist",
    "Synthetic",
    "resize_bilinear",
]
