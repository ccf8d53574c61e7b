"""Float networks, with names made for globs."""

from qatlab.models.lenet import LeNet

__all__ = ["LeNet"]
