import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from qatlab.results import figures
from qatlab.results.figures import confusion_matrix, learning_curves, weight_histograms


def rows(*accuracies: float, clamp: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "epoch": str(epoch),  # as csv.DictReader returns it
            "phase": "clamp" if epoch < clamp else "quantize",
            "train/loss": 0.3 / (epoch + 1),
            "train/acc": accuracy - 0.01,
            "val/loss": 0.2,
            "val/acc": accuracy,
            "switch/val/acc": "",
            "quant/relu1/clipped": 0.5,
        }
        for epoch, accuracy in enumerate(accuracies)
    ]


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


LEVELS = np.array([-0.15, -0.05, 0.05, 0.15])
WEIGHTS = np.linspace(-0.2, 0.2, 101)
LAYER = ("conv", WEIGHTS, LEVELS[np.abs(WEIGHTS[:, None] - LEVELS).argmin(axis=1)], 2)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (learning_curves, (rows(0.9, 0.98, 0.99, clamp=1),)),
        (learning_curves, ([],)),
        (confusion_matrix, ([[3, 1], [0, 2]], ["cat", "dog"])),
        (confusion_matrix, (np.eye(70, dtype=int), ["$x$"] * 70)),
        (weight_histograms, ([LAYER],)),
        (weight_histograms, ([LAYER] * 7,)),
    ],
)
def test_picture_is_the_only_file_left(
    tmp_path: Path, function: Callable[..., None], args: tuple[object, ...]
) -> None:
    path = tmp_path / "figures" / "picture.png"
    function(*args, path)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("suffix", "head"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_a_picture_without_suffix_is_written_in_each_format(
    tmp_path: Path, suffix: str, head: bytes
) -> None:
    for place in ("a", "b"):
        learning_curves(rows(0.9, 0.98), tmp_path / place / "curves", "lenet")
    written = (tmp_path / "a" / "curves").with_suffix(suffix).read_bytes()
    assert written.startswith(head)
    assert (
        written == (tmp_path / "b" / "curves").with_suffix(suffix).read_bytes()
    )  # no date, no lot
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_the_name_of_the_run_stands_on_the_picture(tmp_path: Path) -> None:
    confusion_matrix([[3, 1], [0, 2]], ["cat", "dog"], tmp_path / "a.svg", "$x_ lenet & co")
    named = (tmp_path / "a.svg").read_text()
    assert "<!-- $x_ lenet &amp; co -->" in named  # matplotlib notes each text beside its outlines
    confusion_matrix([[3, 1], [0, 2]], ["cat", "dog"], tmp_path / "b.svg")
    assert "lenet" not in (tmp_path / "b.svg").read_text()


def test_a_long_name_is_shortened_in_the_middle() -> None:
    figure = figures.new_figure(4, 4)
    figures._write_name(figure, "a" * 500 + "z" * 500)
    (text,) = figure.texts
    assert set(text.get_text()) == {"a", "…", "z"}
    assert text.get_window_extent().x1 < figure.bbox.width


def test_pyplot_is_not_touched() -> None:
    code = "import sys, qatlab.results.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_change_of_phase_is_drawn_between_its_epochs_and_named(
    drawn: Callable[..., Figure],
) -> None:
    accuracy, loss = drawn(learning_curves, rows(0.9, 0.99, 0.97, 0.98, clamp=2)).axes
    assert texts(accuracy) == ["clamp", "quantize"]
    assert [text.get_position()[0] for text in accuracy.texts] == [1.5, 3.5]
    for axes in (accuracy, loss):
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert [list(line.get_xdata()) for line in dashed] == [[2.5, 2.5]]
    # The best of the clamp phase is not the run's result.
    assert legend(accuracy) == ["training", "validation", "best: 98.00 % in epoch 4"]


def test_accuracy_axis_shows_the_end_of_the_training(drawn: Callable[..., Figure]) -> None:
    accuracy, _ = drawn(learning_curves, rows(0.2, *[0.98, 0.985, 0.99] * 4)).axes
    low, high = accuracy.get_ylim()
    assert 90 < low < 97
    assert 99 < high < 100


@pytest.mark.parametrize(
    ("losses", "limits", "ticks"),
    [
        ([0.031, 0.045], (0.02, 0.05), [0.02, 0.05]),
        ([0.02], (0.01, 0.05), [0.01, 0.02, 0.05]),
        ([0.3, 6.0], (0.2, 10.0), [0.2, 0.5, 1, 2, 5, 10]),
    ],
)
def test_loss_axis_ends_on_round_numbers(
    losses: list[float], limits: tuple[float, float], ticks: list[float]
) -> None:
    axes = Figure().subplots()
    figures._loss_scale(axes, np.array(losses))
    assert axes.get_ylim() == pytest.approx(limits)
    assert list(axes.get_yticks()) == pytest.approx(ticks)


def test_run_of_one_epoch_without_validation_shows_its_point(
    drawn: Callable[..., Figure],
) -> None:
    accuracy, loss = drawn(learning_curves, [{"epoch": 0, "train/acc": 0.5, "train/loss": ""}]).axes
    assert legend(accuracy) == ["training"]
    assert list(accuracy.lines[0].get_ydata()) == [50.0]
    assert accuracy.get_ylim()[0] < 50 < accuracy.get_ylim()[1]
    assert list(accuracy.get_xlim()) == [0.5, 1.5]
    assert texts(loss) == ["not recorded"]


def test_confusion_matrix_shows_counts_and_recall(drawn: Callable[..., Figure]) -> None:
    matrix = [[30, 10, 0], [0, 25, 0], [0, 0, 0]]
    cells, recall = drawn(confusion_matrix, matrix, ["a", "b", "c"]).axes
    assert texts(cells) == ["30", "10", "25"]
    assert texts(recall) == ["75.0", "100.0", "no sample"]
    assert cells.get_title(loc="left") == "55 of 65 right (84.62 %)"
    # The colours end at the largest error, not at the largest count.
    assert cells.images[0].norm.vmax == 10
    assert np.ma.getmaskarray(np.ma.masked_invalid(cells.images[0].get_array())).sum() == 3


def test_confusion_matrix_of_many_classes_has_colours_only(drawn: Callable[..., Figure]) -> None:
    cells, recall, _ = drawn(confusion_matrix, np.eye(26, dtype=int), ["name"] * 26).axes
    assert texts(cells) == []
    assert texts(recall) == ["100.0"] * 26


def test_weight_panel_shows_every_level_with_its_share(drawn: Callable[..., Figure]) -> None:
    above, below = drawn(weight_histograms, [LAYER]).axes
    assert above.get_title(loc="left") == "conv\n2 bits, 4 levels in use"
    assert below.lines[0].get_xdata() == pytest.approx(LEVELS)
    assert sum(below.lines[0].get_ydata()) == pytest.approx(100)
    assert above.get_xlim() == below.get_xlim()


def test_weights_that_are_scaled_have_an_axis_of_their_own(drawn: Callable[..., Figure]) -> None:
    name, weights, quantized, bits = LAYER
    above, below = drawn(weight_histograms, [(name, weights, quantized / 0.15, bits)]).axes
    assert above.get_xlim() == pytest.approx((-0.21, 0.21))  # 5 % beyond the largest weight
    assert below.get_xlim() == pytest.approx((-1.05, 1.05))


def test_wrong_number_of_class_names_or_no_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 class names do not fit"):
        confusion_matrix([[1]], ["a", "b"], tmp_path / "x.png")
    with pytest.raises(ValueError, match="no quantized layer"):
        weight_histograms([], tmp_path / "x.png")
