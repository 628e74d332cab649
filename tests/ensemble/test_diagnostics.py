"""Where and how a classifier errs: by hand, by scikit-learn and by what must hold of any answers."""

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

ANSWERED = arrays(np.float32, (40, 4), elements=st.floats(-6, 6, width=32))
LABELS = arrays(np.int64, 40, elements=st.integers(0, 3))


def sure(*shares: float) -> NDArray[np.float64]:
    """Logits of two classes; the first has the given probability."""
    return np.array([[math.log(share), math.log(1 - share)] for share in shares])


@settings(deadline=None)
@given(ANSWERED, LABELS)
def test_confusions_are_those_of_scikit_learn(logits: NDArray, labels: NDArray) -> None:
    counts = confusion(logits, labels)
    assert (counts == confusion_matrix(labels, logits.argmax(axis=1), labels=range(4))).all()
    assert np.trace(counts) / counts.sum() == accuracy(logits, labels)


def test_a_class_that_nobody_names_still_has_its_row_and_column() -> None:
    assert confusion(np.array([[1.0, 0, 0]]), np.array([2])).tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


@settings(deadline=None)
@given(ANSWERED, LABELS)
def test_calibration_keeps_every_example_and_the_accuracy(logits: NDArray, labels: NDArray) -> None:
    bins = calibration(logits, labels)
    assert sum(each.count for each in bins) == len(labels)
    assert sum(each.right for each in bins) / len(labels) == pytest.approx(accuracy(logits, labels))
    confidences = [each.confidence for each in bins]
    assert confidences == sorted(confidences)
    # The error of the whole is never more than the mean of the parts' errors.
    whole = abs(accuracy(logits, labels) - sum(b.count * b.confidence for b in bins) / len(labels))
    assert whole <= expected_calibration_error(bins) + 1e-9 <= 1


def test_calibration_by_hand() -> None:
    # 0.9 and 0.92 share the bin (13/15, 14/15]; 0.6 is in (8/15, 9/15], whose upper edge belongs to it.
    bins = calibration(sure(0.9, 0.92, 0.6), np.array([0, 1, 0]))
    assert [(each.count, each.right) for each in bins] == [(1, 1), (2, 1)]
    assert [each.confidence for each in bins] == pytest.approx([0.6, 0.91])
    assert expected_calibration_error(bins) == pytest.approx((0.4 + 2 * 0.41) / 3)


def test_who_is_as_sure_as_right_has_no_calibration_error() -> None:
    assert expected_calibration_error([CalibrationBin(4, 3, 0.75), CalibrationBin(2, 2, 1.0)]) == 0


@pytest.mark.parametrize(
    ("first", "second", "expected", "chance"),
    [
        ("rrrr", "rrrr", (0, 0), 1.0),
        ("rwrw", "wrwr", (2, 2), 1.0),
        ("rrrrr", "wwwww", (5, 0), 2 / 2**5),  # five coins that all show the same side
        ("rrrrrr w".replace(" ", ""), "wwwwwwr", (6, 1), 2 * 8 / 2**7),
    ],
)
def test_a_duel_counts_what_one_alone_gets_right(
    first: str, second: str, expected: tuple[int, int], chance: float
) -> None:
    labels = np.zeros(len(first), np.int64)
    logits = [
        np.array([[1.0, 0.0] if letter == "r" else [0.0, 1.0] for letter in who]) for who in (first, second)
    ]
    result = mcnemar_test(*logits, labels)
    assert (result.first_only, result.second_only) == expected
    assert result.p_value == pytest.approx(chance)


def votes(*members: str) -> NDArray[np.float64]:
    """Logits [member, example, class] that vote for the classes that the digits name."""
    return np.stack([np.eye(3)[[int(digit) for digit in member]] for member in members])


def test_dissent_and_disagreement_by_hand() -> None:
    logits = votes("0120", "0121", "0112")
    assert minority_votes(logits).tolist() == [0, 0, 1, 2]
    assert disagreement(logits).tolist() == [[0, 0.25, 0.5], [0.25, 0, 0.5], [0.5, 0.5, 0]]
    assert minority_votes(votes("012")).tolist() == [0, 0, 0]
