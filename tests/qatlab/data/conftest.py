"""The real MNIST of the repository, read once for all tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from qatlab.data import LabelledImages, Mnist

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def mnist_training() -> LabelledImages:
    return Mnist(str(REPOSITORY / "data")).training_set()


@pytest.fixture(scope="session")
def mnist_test() -> LabelledImages:
    return Mnist(str(REPOSITORY / "data")).test_set()
