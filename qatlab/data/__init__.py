"""Image data sets, what is done to their images, and the batches a network is trained on."""

from qatlab.data.batches import BatchLoader
from qatlab.data.cifar import Cifar10, Cifar100
from qatlab.data.decoded import Decoded, DecodedFolder
from qatlab.data.file_batches import FileLoader
from qatlab.data.file_data_sets import Caltech101, Caltech256, Gtsrb, ImageNet, VisualWakeWords
from qatlab.data.file_sources import FileSource, LabelledFiles
from qatlab.data.folders import ImageFolder
from qatlab.data.image_files import ImageFiles
from qatlab.data.images import ImageData
from qatlab.data.module import ImageModule
from qatlab.data.sources import FashionMnist, ImageSource, LabelledImages, Mnist
from qatlab.data.speech_commands import SpeechCommands
from qatlab.data.synthetic import Synthetic
from qatlab.data.tables import CsvImages
from qatlab.data.toy_admos import ToyAdmos
from qatlab.data.transforms.opencv_resize import resize_bilinear

__all__ = [
    "BatchLoader",
    "Caltech101",
    "Caltech256",
    "Cifar10",
    "Cifar100",
    "CsvImages",
    "Decoded",
    "DecodedFolder",
    "FashionMnist",
    "FileLoader",
    "FileSource",
    "Gtsrb",
    "ImageData",
    "ImageFiles",
    "ImageFolder",
    "ImageModule",
    "ImageNet",
    "ImageSource",
    "LabelledFiles",
    "LabelledImages",
    "Mnist",
    "SpeechCommands",
    "Synthetic",
    "ToyAdmos",
    "VisualWakeWords",
    "resize_bilinear",
]
