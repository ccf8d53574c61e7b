"""What every form of a network is made of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from qatlab.data import ImageModule
from qatlab.deploy.integer import IntegerNetwork, lower
from qatlab.deploy.pixels import pixel_codes
from qatlab.quant import ModelTable


@dataclass(frozen=True)
class Trained:
    """A trained network, its data, and where it comes from.

    Attributes:
        model: with its quantizers.
        table: its layers and sites.
        data: the images that it was made for.
        classifies: whether it has an output for each class.
        config: its configuration, YAML.
        source: the folder of its run, or the words that describe it.
    """

    model: nn.Module
    table: ModelTable
    data: ImageModule
    classifies: bool
    config: str
    source: str

    def lowered(self) -> IntegerNetwork:
        """Return it as operations on the bytes of its images.

        Raises:
            ConfigError: for what has no such form, naming layer or site.
        """
        return lower(self.model, pixel_codes(self.data), self.data.example_input())
