"""Scores of a classifier from its confusion matrix, and the three lines N2D2 prints of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.generic] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Scores:
    """Recognition rate, and the averages over classes of six one-versus-rest scores (fractions).

    Attributes:
        recognition_rate: share of samples whose estimated class is the target class.
        sensitivity: mean over classes of TP / (TP + FN); also called recall.
        specificity: mean of TN / (TN + FP).
        precision: mean of TP / (TP + FP).
        accuracy: mean of (TP + TN) / all, hence well above the recognition rate.
        f1: mean of each class's own F1, not the F1 of the means.
        informedness: mean of sensitivity + specificity - 1.
    """

    recognition_rate: float
    sensitivity: float
    specificity: float
    precision: float
    accuracy: float
    f1: float
    informedness: float

    @classmethod
    def from_confusion(cls, matrix: Matrix) -> Scores:
        """Score a confusion matrix as N2D2 does.

        A class that is neither a target nor an estimate of any sample is left out of the
        averages; one that is only estimated counts, with sensitivity 0. A fraction whose
        numerator is 0 is 0, also where its denominator is 0.

        Args:
            matrix: sample counts ``matrix[target][estimated]``, shape (classes, classes).
        """
        counts = _counts(matrix)
        total = counts.sum()
        if total == 0:
            raise ValueError("the confusion matrix counts no sample, so there is nothing to score")

        hits = np.diagonal(counts)
        missed = counts.sum(axis=1) - hits
        false_alarms = counts.sum(axis=0) - hits
        occurs = hits + missed + false_alarms > 0
        tp, fn, fp = hits[occurs], missed[occurs], false_alarms[occurs]
        tn = total - tp - fn - fp

        sensitivity = _fraction(tp, tp + fn)
        specificity = _fraction(tn, tn + fp)
        precision = _fraction(tp, tp + fp)
        return cls(
            recognition_rate=float(hits.sum() / total),
            sensitivity=float(sensitivity.mean()),
            specificity=float(specificity.mean()),
            precision=float(precision.mean()),
            accuracy=float(((tp + tn) / total).mean()),
            f1=float(_fraction(2 * precision * sensitivity, precision + sensitivity).mean()),
            informedness=float((sensitivity + specificity - 1).mean()),
        )


def area_under_roc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return the area under the receiver operating characteristic (AUC).

    It is the probability that a positive sample has a higher score than a negative one, where equal
    scores count half: the statistic of Mann and Whitney, from ranks.

    Args:
        scores: ``(N,)``.
        positive: ``(N,)``, some of which are and some of which are not.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of equal scores their mean
    n_positive = int(positive.sum())
    n_negative = len(scores) - n_positive
    smallest = n_positive * (n_positive + 1) / 2
    return float((ranks[place][positive].sum() - smallest) / (n_positive * n_negative))


def n2d2_lines(scores: Scores, digits: int = 6) -> list[str]:
    """Return the three lines N2D2 reports after a test, character for character.

    Args:
        scores: what to report.
        digits: significant digits; N2D2 prints 6 in a test-only run and 4 after a training.
    """

    def percent(fraction: float) -> str:
        return f"{100 * fraction:.{digits}g}%"  # as a C++ stream prints: no trailing zeros

    rate = scores.recognition_rate
    return [
        f"Final recognition rate: {percent(rate)}    (error rate: {percent(1 - rate)})",
        f"    Sensitivity: {percent(scores.sensitivity)} / Specificity:"
        f" {percent(scores.specificity)} / Precision: {percent(scores.precision)}",
        f"    Accuracy: {percent(scores.accuracy)} / F1-score: {percent(scores.f1)}"
        f" / Informedness: {percent(scores.informedness)}",
    ]


def _counts(matrix: Matrix) -> NDArray[np.float64]:
    """Return the counts as floats; refuse a matrix that is not square or holds no counts."""
    counts = np.asarray(matrix, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"a confusion matrix is square, but this one has shape {counts.shape}")
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ValueError("a confusion matrix holds counts, but this one has a value below 0 or nan")
    return counts


def _fraction(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=numerator > 0)
