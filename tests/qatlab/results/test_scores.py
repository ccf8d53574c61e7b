import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from qatlab.results.scores import Scores, area_under_roc, n2d2_lines

REPOSITORY = Path(__file__).parents[3]
GOLDEN = REPOSITORY.parent / "shared" / "data" / "n2d2" / "golden"
LABELS = REPOSITORY / "data" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"


def test_scores_of_two_classes_follow_the_formulas() -> None:
    # class 0: TP 3, FN 1, FP 2, TN 4; class 1: TP 4, FN 2, FP 1, TN 3
    scores = Scores.from_confusion([[3, 1], [2, 4]])
    assert scores.recognition_rate == pytest.approx(7 / 10)
    assert scores.sensitivity == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert scores.specificity == pytest.approx((4 / 6 + 3 / 4) / 2)
    assert scores.precision == pytest.approx((3 / 5 + 4 / 5) / 2)
    assert scores.accuracy == pytest.approx(7 / 10)
    assert scores.f1 == pytest.approx((6 / 9 + 8 / 11) / 2)  # 2 TP / (2 TP + FP + FN)
    assert scores.informedness == pytest.approx(3 / 4 + 4 / 6 - 1)


@pytest.mark.parametrize(
    # Pairs of a positive and a negative sample: the share whose positive one is higher.
    ("positives", "negatives", "area"),
    [
        ([3, 4], [1, 2], 1),
        ([1, 2], [3, 4], 0),
        ([2, 5], [1, 3, 4], 4 / 6),
        ([1, 1], [1, 1, 1], 1 / 2),
        ([2, 3], [2, 1, 2], (0.5 + 1 + 0.5 + 3) / 6),
    ],
)
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(
    positives: list[float], negatives: list[float], area: float
) -> None:
    scores = np.array([*positives, *negatives], np.float64)
    found = area_under_roc(scores, np.arange(len(scores)) < len(positives))
    assert found == pytest.approx(area)


def test_class_that_never_occurs_is_left_out() -> None:
    with_unused = [[3, 0, 1], [0, 0, 0], [2, 0, 4]]
    assert Scores.from_confusion(with_unused) == Scores.from_confusion([[3, 1], [2, 4]])


def test_class_that_is_only_estimated_counts_with_zero() -> None:
    # class 0: TP 4, FN 1, FP 0, TN 0; class 1: TP 0, FN 0, FP 1, TN 4
    scores = Scores.from_confusion([[4, 1], [0, 0]])
    assert scores.sensitivity == pytest.approx((4 / 5 + 0) / 2)
    assert scores.specificity == pytest.approx((0 + 4 / 5) / 2)
    assert scores.precision == pytest.approx((1 + 0) / 2)
    assert scores.f1 == pytest.approx((8 / 9 + 0) / 2)
    assert scores.accuracy == pytest.approx(4 / 5)
    assert scores.informedness == pytest.approx((4 / 5 + 0 - 1 + 0 + 4 / 5 - 1) / 2)


def test_perfect_estimates_score_one() -> None:
    scores = Scores.from_confusion(np.diag([5, 7, 9]))
    assert scores == Scores(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert n2d2_lines(scores)[0] == "Final recognition rate: 100%    (error rate: 0%)"


def test_lines_print_the_significant_digits_asked_for_and_no_trailing_zeros() -> None:
    scores = Scores(0.989, 0.98765432, 0.999, 0.9, 0.5, 1 / 3, 0.00001234567)
    assert n2d2_lines(scores, digits=4) == [
        "Final recognition rate: 98.9%    (error rate: 1.1%)",
        "    Sensitivity: 98.77% / Specificity: 99.9% / Precision: 90%",
        "    Accuracy: 50% / F1-score: 33.33% / Informedness: 0.001235%",
    ]
    assert n2d2_lines(scores)[1].startswith("    Sensitivity: 98.7654% /")


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        ([[1, 2, 3], [4, 5, 6]], "square"),
        ([[1, -1], [0, 2]], "below 0"),
        ([[0, 0], [0, 0]], "counts no sample"),
    ],
)
def test_matrix_that_cannot_be_scored_is_refused(matrix: list[list[int]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Scores.from_confusion(matrix)


@pytest.mark.skipif(not GOLDEN.exists(), reason="N2D2's golden files are not beside the checkout")
@pytest.mark.parametrize("weights", ["LeNet_4b", "LeNet_w4_a8", "LeNet_w1_a4"])
def test_lines_are_those_n2d2_prints_for_its_own_outputs(weights: str) -> None:
    labels = np.frombuffer(gzip.decompress(LABELS.read_bytes()), dtype=np.uint8, offset=8)
    estimated = np.load(GOLDEN / "logits_mnist_test.npz")[f"weights_{weights}"].argmax(axis=1)
    matrix = np.zeros((10, 10), dtype=np.int64)
    np.add.at(matrix, (labels, estimated), 1)

    printed = json.loads((GOLDEN / "reports.json").read_text())[weights]["report_lines"]
    lines = n2d2_lines(Scores.from_confusion(matrix))
    # The golden file keeps the lines without the indentation of the second and third.
    assert lines == [printed[0], "    " + printed[1], "    " + printed[2]]
