"""Metrics against values by hand, closed forms and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss

from convene.training.metrics import Epoch, accuracy, accuracy_interval, cross_entropy


@st.composite
def scored(draw: st.DrawFn, largest: float = 8.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits [example, class] and labels [example]."""
    examples, classes = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    logit = st.floats(-largest, largest, width=32)
    rows = st.lists(logit, min_size=classes, max_size=classes)
    logits = draw(st.lists(rows, min_size=examples, max_size=examples))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=examples, max_size=examples))
    return np.array(logits, np.float32), np.array(labels)


@settings(deadline=None)
@given(scored())
def test_scores_agree_with_scikit_learn(case: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    logits, labels = case
    exponentials = np.exp(logits.astype(np.float64))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    # float64 throughout; scikit-learn clips at 2e-16, far below the smallest probability here, e^-16 / 5.
    expected = log_loss(labels, probabilities, labels=range(logits.shape[1]))
    assert cross_entropy(logits, labels) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert accuracy(logits, labels) == accuracy_score(labels, logits.argmax(axis=1))


@settings(deadline=None)
@given(scored(), st.floats(-1e4, 1e4))
def test_only_differences_of_logits_matter(
    case: tuple[NDArray[np.float32], NDArray[np.int64]], offset: float
) -> None:
    logits, labels = case[0].astype(np.float64), case[1]
    # An offset of 1e4 costs 4 of float64's 16 digits.
    assert cross_entropy(logits + offset, labels) == pytest.approx(cross_entropy(logits, labels), abs=1e-9)


@pytest.mark.parametrize(
    ("logits", "labels", "loss", "accurate"),
    [
        ([[0, 0]], [0], math.log(2), 1.0),
        ([[0, 0]], [1], math.log(2), 0.0),  # ties go to the first class
        ([[0] * 10] * 2, [0, 9], math.log(10), 0.5),
        ([[math.log(3), 0], [0, 0]], [0, 1], (math.log(4 / 3) + math.log(2)) / 2, 0.5),
        ([[1000, 0]], [0], 0.0, 1.0),
        ([[1000, 0]], [1], 1000.0, 0.0),
        ([[-1000, -2000, -3000]], [1], 1000.0, 0.0),
    ],
)
def test_scores_by_hand(logits: list[list[float]], labels: list[int], loss: float, accurate: float) -> None:
    array = np.array(logits, np.float32)
    assert cross_entropy(array, np.array(labels)) == pytest.approx(loss, abs=1e-6)  # float32 logits
    assert accuracy(array, np.array(labels)) == accurate


@pytest.mark.parametrize(
    "row", [[np.nan, 0], [np.inf, 0], [np.inf, 1e30], [np.inf, np.inf], [-np.inf, -np.inf]]
)
def test_the_loss_of_a_diverged_network_is_not_finite_and_gives_no_warning(row: list[float]) -> None:
    logits = np.array([row, [3e38, -3e38], [0, 1]], np.float32)
    assert not math.isfinite(cross_entropy(logits, np.array([1, 1, 1])))
    accuracy(logits, np.array([1, 1, 1]))


def wilson(right: int, count: int, z: float) -> tuple[float, float]:
    """Wilson's interval (1927) in its usual form."""
    share, spread = right / count, z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return middle - half, middle + half


def answers(right: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits and labels with `right` correct predictions."""
    logits = np.tile(np.array([1, 0], np.float32), (count, 1))
    return logits, (np.arange(count) >= right).astype(np.int64)


@settings(deadline=None)
@given(st.integers(1, 2000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_the_interval_agrees_with_the_closed_form(case: tuple[int, int]) -> None:
    right, count = case
    logits, labels = answers(right, count)
    assert accuracy(logits, labels) == right / count
    low, high = accuracy_interval(logits, labels)
    assert (low, high) == pytest.approx(wilson(right, count, z=1.959963984540054), abs=1e-12)
    # An end of 0 or 1 may be off by float64's last digit.
    assert -1e-15 <= low <= right / count + 1e-15
    assert right / count - 1e-15 <= high <= 1 + 1e-15


def test_higher_confidence_gives_a_wider_interval() -> None:
    logits, labels = answers(90, 100)
    # The result of R's prop.test(90, 100, correct = FALSE).
    assert accuracy_interval(logits, labels) == pytest.approx((0.8256343, 0.9447709), abs=1e-7)
    assert accuracy_interval(logits, labels, confidence=0.99) == pytest.approx(
        wilson(90, 100, z=2.5758293035489004), abs=1e-12
    )


def test_the_metrics_of_an_epoch_have_the_names_in_tracking_and_tables() -> None:
    row = Epoch(epoch=3, train_loss=0.5, valid_loss=0.25, valid_accuracy=0.75, images_per_second=100.0)
    assert row.metrics() == {
        "train_loss": 0.5,
        "valid_loss": 0.25,
        "valid_accuracy": 0.75,
        "images_per_second": 100.0,
    }
