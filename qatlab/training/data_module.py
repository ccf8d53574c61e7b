"""Images as Lightning's trainer takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningDataModule


class DataModule(LightningDataModule):
    """Hands the trainer and its calls on to data that do not know Lightning.

    Args:
        images: with ``prepare_data``, ``setup`` and loaders as a LightningDataModule has them, and
            an attribute ``trainer``.
        has_read: called with the stage whose images have been read.
    """

    def __init__(self, images: Any, has_read: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.images, self.has_read = images, has_read

    def prepare_data(self) -> None:
        """Fetch what is missing."""
        self.images.prepare_data()

    def setup(self, stage: str) -> None:
        """Read images, for the processes and the device of the trainer."""
        self.images.trainer = self.trainer
        self.images.setup(stage)
        if self.has_read is not None:
            self.has_read(stage)

    def train_dataloader(self) -> Any:
        """Return the batches of an epoch."""
        return self.images.train_dataloader()

    def val_dataloader(self) -> Any:
        """Return the batches of the images that are held out."""
        return self.images.val_dataloader()

    def test_dataloader(self) -> Any:
        """Return the batches of the test set."""
        return self.images.test_dataloader()
