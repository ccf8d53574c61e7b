from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from qatlab.data import ImageData, ImageFiles, Mnist
from qatlab.data.transforms import RandomResizeCrop
from qatlab.data.transforms.transform import PARTS

IN_MEMORY = {"mnist": (10, 1), "fashion_mnist": (10, 1), "synthetic": (10, 1)}
IN_MEMORY |= {"cifar10": (10, 3), "cifar100": (100, 3)}

SOUND = {"speech_commands": (12, 1, (49, 10)), "toy_admos": (2, 1, (5, 128))}
DECODED = ("cifar10_jpeg",)  # its classes are known from its folder alone
FILES = ("image_folder", "image_table", "gtsrb", "caltech101", "imagenet", "visual_wake_words")


def composed(repository: Path, name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
        return compose(f"data/{name}", overrides=["+seed=5", *overrides]).data


def test_all_configs_are_tested_here(repository: Path) -> None:
    options = {path.stem for path in (repository / "conf" / "data").glob("[!_]*.yaml")}
    assert options == {*IN_MEMORY, *SOUND, *DECODED, *FILES}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_every_data_set_config_builds_without_its_files(repository: Path, name: str) -> None:
    data = instantiate(composed(repository, name))
    assert isinstance(data, ImageData)
    assert (data.num_classes, data.in_channels) == IN_MEMORY[name]
    assert data.image_size == (32, 32)
    assert data.shuffle_seed == 5  # the seed of the run


@pytest.mark.parametrize("name", SOUND)
def test_every_config_of_sound_builds_without_its_files(repository: Path, name: str) -> None:
    data = instantiate(composed(repository, name))
    assert isinstance(data, ImageData)
    assert (data.num_classes, data.in_channels, data.image_size) == SOUND[name]
    assert data.shuffle_seed == 5


@pytest.mark.parametrize("name", DECODED)
def test_files_to_be_kept_in_memory_have_the_config_of_others(repository: Path, name: str) -> None:
    data = instantiate(composed(repository, name))
    assert isinstance(data, ImageData)
    assert (data.in_channels, data.image_size, data.shuffle_seed) == (3, (32, 32), 5)


@pytest.mark.parametrize("name", FILES)
def test_every_config_of_image_files_builds_without_its_files(repository: Path, name: str) -> None:
    data = instantiate(composed(repository, name))
    assert isinstance(data, ImageFiles)
    assert data.in_channels == 3
    assert data.shuffle_seed == 5


@pytest.mark.parametrize("names", [(*IN_MEMORY, *SOUND, *DECODED), FILES])
def test_all_data_sets_of_a_kind_have_the_same_keys(
    repository: Path, names: tuple[str, ...]
) -> None:
    keys = [set(composed(repository, name)) for name in names]
    assert all(other == keys[0] for other in keys)


@pytest.mark.parametrize("name", [*IN_MEMORY, *SOUND, *DECODED, *FILES])
def test_a_config_shows_all_arguments_of_its_source(repository: Path, name: str) -> None:
    node = composed(repository, name).source
    source = type(instantiate(node))
    assert set(node) - {"_target_"} == set(inspect.signature(source).parameters)


def test_transforms_are_written_into_a_config(repository: Path) -> None:
    transforms = (
        "data.transforms={"
        "rescale: {_target_: qatlab.data.transforms.Rescale, width: 12, height: 9},"
        "range: {_target_: qatlab.data.transforms.RangeAffine, first_operator: divides,"
        "first_value: [255]}}"
    )
    overrides = (transforms, "data.image_size=[9,12]", "data.source.size=[5,5]")
    data = instantiate(composed(repository, "synthetic", *overrides))
    data.setup("test")
    assert next(iter(data.test_dataloader()))[0].shape == (1000, 1, 9, 12)


def test_imagenet_is_transformed_as_is_usual(repository: Path) -> None:
    data = instantiate(composed(repository, "imagenet"))
    for part, length in (("training", 3), ("validation", 3), ("test", 3)):
        assert len(data.pipelines[part]) == length
    assert isinstance(data.pipelines["training"][0], RandomResizeCrop)
    jitter = "data.transforms.color={_target_: torchvision.transforms.v2.ColorJitter, hue: 0.1}"
    data = instantiate(composed(repository, "imagenet", jitter))
    assert [len(data.pipelines[part]) for part in PARTS] == [4, 3, 3]


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
