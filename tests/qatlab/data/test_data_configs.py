from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from qatlab.data import ImageData, Mnist

DATA_SETS = ("mnist", "fashion_mnist", "synthetic")


def composed(repository: Path, name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
        return compose(f"data/{name}", overrides=["+seed=5", *overrides]).data


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_config_builds_without_its_files(repository: Path, name: str) -> None:
    data = instantiate(composed(repository, name))
    assert isinstance(data, ImageData)
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, (32, 32))
    assert data.shuffle_seed == 5  # the seed of the run


def test_all_data_sets_have_the_same_keys(repository: Path) -> None:
    keys = [set(composed(repository, name)) for name in DATA_SETS]
    assert keys[0] == keys[1] == keys[2]


def test_the_mnist_config_reads_the_archives_of_the_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)  # `folder` is relative to where the run is started
    source = instantiate(composed(repository, "mnist").source)
    assert isinstance(source, Mnist)
    assert len(source.test_set().images) == 10_000


def test_synthetic_images_are_made_in_the_size_of_the_network(repository: Path) -> None:
    data = instantiate(composed(repository, "synthetic", "data.image_size=[12,20]"))
    data.setup("test")
    assert data.source.test_set().images.shape == (1000, 1, 12, 20)
