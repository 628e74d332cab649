"""Diagnostics of a classifier's errors, checked by hand, by scikit-learn and by properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from convene.ensemble.diagnostics import (
    CalibrationBin,
    calibration,
    confusion,
    disagreement,
    expected_calibration_error,
    mcnemar_test,
    minority_votes,
)
from convene.training.metrics import accuracy

LOGITS = arrays(np.float32, (40, 4), elements=st.floats(-6, 6, width=32))
LABELS = arrays(np.int64, 40, elements=st.integers(0, 3))


def binary_logits(*probabilities: float) -> NDArray[np.float64]:
    """Return logits of two classes, the first of which has the given probability."""
    return np.array([[math.log(p), math.log(1 - p)] for p in probabilities])


@settings(deadline=None)
@given(LOGITS, LABELS)
def test_the_confusion_matrix_matches_scikit_learn(
    logits: NDArray[np.float64], labels: NDArray[np.int64]
) -> None:
    counts = confusion(logits, labels)
    assert (counts == confusion_matrix(labels, logits.argmax(axis=1), labels=range(4))).all()
    assert np.trace(counts) / counts.sum() == accuracy(logits, labels)


def test_a_class_that_is_never_predicted_has_a_row_and_a_column() -> None:
    assert confusion(np.array([[1.0, 0, 0]]), np.array([2])).tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


@settings(deadline=None)
@given(LOGITS, LABELS)
def test_calibration_bins_preserve_the_count_and_the_accuracy(
    logits: NDArray[np.float64], labels: NDArray[np.int64]
) -> None:
    bins = calibration(logits, labels)
    assert sum(each.count for each in bins) == len(labels)
    assert sum(each.correct for each in bins) / len(labels) == pytest.approx(accuracy(logits, labels))
    confidences = [each.confidence for each in bins]
    assert confidences == sorted(confidences)
    # The overall error never exceeds the mean error of the bins.
    overall = abs(accuracy(logits, labels) - sum(b.count * b.confidence for b in bins) / len(labels))
    assert overall <= expected_calibration_error(bins) + 1e-9 <= 1


def test_calibration_by_hand() -> None:
    # 0.9 and 0.92 share the bin (13/15, 14/15]; 0.6 is in (8/15, 9/15], whose upper edge belongs to it.
    bins = calibration(binary_logits(0.9, 0.92, 0.6), np.array([0, 1, 0]))
    assert [(each.count, each.correct) for each in bins] == [(1, 1), (2, 1)]
    assert [each.confidence for each in bins] == pytest.approx([0.6, 0.91])
    assert expected_calibration_error(bins) == pytest.approx((0.4 + 2 * 0.41) / 3)


def test_a_perfectly_calibrated_classifier_has_no_calibration_error() -> None:
    assert expected_calibration_error([CalibrationBin(4, 3, 0.75), CalibrationBin(2, 2, 1.0)]) == 0


@pytest.mark.parametrize(
    ("first", "second", "expected", "p_value"),
    [
        ("rrrr", "rrrr", (0, 0), 1.0),
        ("rwrw", "wrwr", (2, 2), 1.0),
        ("rrrrr", "wwwww", (5, 0), 2 / 2**5),  # five coins that all land on the same side
        ("rrrrrr w".replace(" ", ""), "wwwwwwr", (6, 1), 2 * 8 / 2**7),
    ],
)
def test_mcnemar_counts_what_only_one_classifies_correctly(
    first: str, second: str, expected: tuple[int, int], p_value: float
) -> None:
    labels = np.zeros(len(first), np.int64)
    first_logits, second_logits = (
        np.array([[1.0, 0.0] if letter == "r" else [0.0, 1.0] for letter in results])
        for results in (first, second)
    )
    result = mcnemar_test(first_logits, second_logits, labels)
    assert (result.first_only, result.second_only) == expected
    assert result.p_value == pytest.approx(p_value)


def votes(*members: str) -> NDArray[np.float64]:
    """Return logits [member, example, class] that vote for the classes given by the digits."""
    return np.stack([np.eye(3)[[int(digit) for digit in member]] for member in members])


def test_minority_votes_and_disagreement_by_hand() -> None:
    logits = votes("0120", "0121", "0112")
    assert minority_votes(logits).tolist() == [0, 0, 1, 2]
    assert disagreement(logits).tolist() == [[0, 0.25, 0.5], [0.25, 0, 0.5], [0.5, 0.5, 0]]
    assert minority_votes(votes("012")).tolist() == [0, 0, 0]
