"""Losses, scores and outputs of networks with one output or several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from qatlab.errors import DataError, TrainingError
from qatlab.run.evaluation import Evaluation, lines
from qatlab.training.classifier import Classifier
from qatlab.training.forward import TrainingForward
from qatlab.training.loss import CrossEntropy, Loss, Reconstruction, SquaredError
from qatlab.training.parameter_solver import ParameterSolver

LABELS = torch.tensor([0, 1, 2, 2, -1, 1])
ANSWERS = torch.tensor([0, 1, 2, 0, 2, 2])  # three of five
IMAGES = torch.eye(3)[ANSWERS].reshape(6, 1, 1, 3)


class Net(nn.Module):
    """Scaled images, as a vector first and as images second."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.shapes = shapes

    def forward(self, images: Tensor) -> Any:
        outputs = tuple(self.scale * images.reshape(-1, *shape) for shape in self.shapes)
        return outputs if len(outputs) > 1 else outputs[0]


VECTOR, IMAGE = (3,), (1, 1, 3)


def classifier(model: nn.Module, *losses: Loss, classes: int = 3) -> Classifier:
    solver = ParameterSolver({"main": {"parameters": "*", "lr": 0.1}})
    step = TrainingForward(False, "keep")
    return Classifier(model, solver, losses, lambda e: (e, 1), classes, step)


def trainer(**settings: Any) -> Trainer:
    return Trainer(
        **{"max_epochs": 1, **settings},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def loader(labels: Tensor = LABELS, images: Tensor = IMAGES) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, labels), batch_size=4)


def evaluated(module: Classifier, **data: Tensor) -> Evaluation:
    trainer().test(module, dataloaders=loader(**data), verbose=False)
    return Evaluation.of(module)


pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging


def test_images_without_a_label_do_not_count() -> None:
    module = classifier(Net(VECTOR), SquaredError())
    result = evaluated(module)
    assert (result.images, module.tested) == (5, 5)
    # A right answer is 1 above its target; a wrong one 2, and 1 below at the label.
    assert result.loss == pytest.approx((3 * 0.5 + 2 * 2.5) / 5)
    assert result.classes is not None
    # The five highest of at most five outputs always hold the label.
    assert (result.classes.top1, result.classes.top5) == (pytest.approx(0.6), None)
    assert "top5" not in result.to_json()["test"]
    assert not any("Top-5" in line for line in lines(result, digits=4))
    assert result.classes.confusion.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]
    assert result.classes.scores.recognition_rate == 0.6
    assert torch.cat(module.outputs).shape == (6, 3)  # save_outputs has all of them
    with pytest.raises(DataError, match="no image of the test set has a label"):
        evaluated(module, labels=torch.full((6,), -1))


def test_a_second_test_begins_anew() -> None:
    module = classifier(Net(VECTOR), CrossEntropy())
    first = evaluated(module)
    second = evaluated(module)
    assert first.to_json() == second.to_json()
    assert len(module.outputs) == 2


def test_reconstruction_has_a_loss_and_no_scores() -> None:
    module = classifier(Net(IMAGE), Reconstruction(), classes=1)
    result = evaluated(module)
    assert result.to_json() == {"test": {"phase": "float", "images": 6, "loss": 0.5}}
    assert lines(result, digits=4) == ["    Loss: 0.5000    (6 test images, float phase)"]
    assert set(module.trainer.callback_metrics) == {"test/loss"}
    assert torch.equal(torch.cat(module.outputs), 2 * IMAGES)


@pytest.mark.parametrize(
    # Losses are the squares below. Of 4 and 6 against 6, 7, 9, 16, 1 and 3, four pairs are in order
    # and one is equal. The means of two in a row are 5 and 12.5 against 6.5 and 2.
    ("each", "labels", "auc"),
    [
        (1, [1, 0, 1, 0, 0, 0, 0, 0], 4.5 / 12),
        (2, [1, 1, 0, 0, 1, 1, 0, 0], 3 / 4),
        (1, [0] * 8, None),
    ],
)
def test_the_loss_of_a_reconstruction_tells_anomalies(
    each: int, labels: list[int], auc: float | None
) -> None:
    squares = torch.tensor([4, 6, 6, 7, 9, 16, 1, 3]).reshape(8, 1, 1, 1)
    module = classifier(Net((1, 1, 1)), Reconstruction(), classes=2)
    module.images_per_score = each
    result = evaluated(module, images=(2 * squares).sqrt(), labels=torch.tensor(labels))
    assert result.auc == (None if auc is None else pytest.approx(auc))
    told = lines(result, digits=4)[0]
    if auc is None:
        assert "auc" not in result.to_json()["test"]
        assert told.startswith("    Loss: ")
    else:
        assert result.to_json()["test"]["auc"] == result.auc
        assert told.startswith(f"    AUC: {auc:.4f} / Loss: ")


def test_the_losses_of_several_outputs_are_summed_and_the_first_is_scored() -> None:
    both = classifier(Net(VECTOR, IMAGE), CrossEntropy(), Reconstruction())
    result, alone = evaluated(both), evaluated(classifier(Net(VECTOR), CrossEntropy()))
    assert result.classes is not None
    assert alone.classes is not None
    assert result.classes.to_json() == alone.classes.to_json()
    assert torch.cat(both.outputs).shape == (6, 3)
    # The image without a label has no cross entropy, but is reconstructed.
    assert result.loss == pytest.approx(alone.loss + 6 * 0.5 / 5)

    other = classifier(Net(IMAGE, VECTOR), Reconstruction(), CrossEntropy())
    assert evaluated(other).classes is None


def test_a_single_output_decides_between_two_classes() -> None:
    images = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1, 1)
    module = classifier(Net((1,)), SquaredError(), classes=2)  # outputs are 0.2, 0.4, 0.6, 0.8
    result = evaluated(module, images=images, labels=torch.tensor([0, 1, 1, 0]))
    assert result.classes is not None
    assert result.classes.confusion.tolist() == [[1, 1], [1, 1]]
    saved = torch.cat(module.outputs)
    assert saved.argmax(1).tolist() == [0, 0, 1, 1]
    assert saved[:, 1].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("shapes", "losses"),
    [
        ([VECTOR], [CrossEntropy()]),
        ([IMAGE], [Reconstruction()]),
        ([VECTOR, IMAGE], [SquaredError(), Reconstruction()]),
    ],
)
def test_means_of_an_epoch_and_of_a_validation_are_those_of_all_images(
    shapes: list[tuple[int, ...]], losses: list[Loss]
) -> None:
    module = classifier(Net(*shapes), *losses)
    module.solver = ParameterSolver({"main": {"parameters": "*", "lr": 0.0}})  # nothing moves
    run = trainer()
    run.fit(module, loader(), loader())
    metrics = {key: value.item() for key, value in run.callback_metrics.items()}
    expected = module.means(module.evaluate_batch(IMAGES, LABELS))
    assert set(expected) == ({"loss", "acc"} if losses[0].classifies else {"loss"})
    for key, value in expected.items():
        assert metrics[f"train/{key}"] == metrics[f"val/{key}"] == pytest.approx(value)
    assert set(metrics) == {f"{s}/{k}" for s in ("train", "val") for k in expected} | {"lr"}


def test_the_gradient_is_that_of_the_mean_over_the_batch() -> None:
    module = classifier(Net(VECTOR, IMAGE), SquaredError(), Reconstruction())
    run = trainer(limit_train_batches=1)
    run.fit(module, loader())
    x, labels = IMAGES.reshape(6, 3).numpy()[:4], LABELS.numpy()[:4]
    errors = np.eye(3)[labels] - 2 * x
    gradient = -(errors * x).sum() / 4 - ((x - 2 * x) * x).sum() / 4
    assert module.model.scale.item() == pytest.approx(2 - 0.1 * gradient)


def test_a_batch_of_one_image_that_cannot_be_normalised_is_reported() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, (1, 3)), nn.BatchNorm2d(3), nn.Flatten())
    module = classifier(model, CrossEntropy())
    with pytest.raises(TrainingError, match="batch of a single value"):
        trainer().fit(module, DataLoader(TensorDataset(IMAGES, LABELS.clamp(min=0)), batch_size=1))


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize(
    ("scale", "images", "cause"),
    [
        (math.nan, IMAGES, "model.scale|scale holds NaN"),
        (1.0, IMAGES * torch.tensor([1, 1, 1, 1, 1, math.inf])[:, None, None, None], "images hold"),
    ],
)
def test_an_evaluation_that_is_not_finite_ends_with_its_cause(
    stage: str, scale: float, images: Tensor, cause: str
) -> None:
    module = classifier(Net(VECTOR), CrossEntropy())
    module.model.scale.data.fill_(scale)
    with pytest.raises(TrainingError, match=rf"the loss of the {stage[:4]}\w* is nan.*({cause})"):
        getattr(trainer(), stage)(module, dataloaders=loader(images=images), verbose=False)


def test_an_answer_that_is_no_number_is_refused_though_its_image_does_not_count() -> None:
    images = IMAGES.clone()
    images[4] = math.nan  # the image without a label
    with pytest.raises(TrainingError, match=r"the loss of the test is nan.*the images hold NaN"):
        evaluated(classifier(Net(VECTOR), CrossEntropy()), images=images)


def test_a_validation_that_is_not_finite_ends_the_training_in_its_epoch() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(3, 3))
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.running_var.fill_(math.nan)  # which the training does not look at
    module = classifier(model, CrossEntropy())
    words = (
        r"the loss of the validation is nan in the float phase, epoch 1: 0\.running_var holds NaN"
    )
    with pytest.raises(TrainingError, match=f"{words}; lower .* or set trainer.gradient_clip_val"):
        trainer(max_epochs=3).fit(module, loader(), loader())
