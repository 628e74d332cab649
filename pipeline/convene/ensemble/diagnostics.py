"""Diagnostics of a classifier's errors: pure functions of logits and labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convene.training.metrics import Labels, Logits

CALIBRATION_BINS = 15  # of equal width, as in Guo et al.


@dataclass(frozen=True)
class CalibrationBin:
    """The examples whose highest probability falls into the same bin."""

    count: int
    correct: int
    confidence: float
    """Mean highest probability."""

    @property
    def accuracy(self) -> float:
        """Return the share of examples that are classified correctly."""
        return self.correct / self.count


@dataclass(frozen=True)
class McNemarTest:
    """A comparison of two classifiers on the same examples."""

    first_only: int
    """Examples that only the first classifies correctly."""
    second_only: int
    """Examples that only the second classifies correctly."""
    p_value: float
    """Probability of a difference at least this large between equally good classifiers."""


def probabilities(logits: Logits) -> NDArray[np.float64]:
    """Return the softmax of each row of logits [example, class]."""
    from scipy.special import softmax

    return np.asarray(softmax(np.asarray(logits, dtype=np.float64), axis=1))


def confusion(logits: Logits, labels: Labels) -> NDArray[np.int64]:
    """Return the number of examples [truth, prediction]."""
    classes = logits.shape[1]
    cells = np.asarray(labels) * classes + np.argmax(logits, axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def calibration(logits: Logits, labels: Labels) -> list[CalibrationBin]:
    """Return the nonempty bins (i/15, (i + 1)/15] of the highest probability, in ascending order."""
    confidence, correct = probabilities(logits).max(axis=1), np.argmax(logits, axis=1) == labels
    indices = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    return [
        CalibrationBin(int(inside.sum()), int(correct[inside].sum()), float(confidence[inside].mean()))
        for inside in (indices == index for index in range(CALIBRATION_BINS))
        if inside.any()
    ]


def expected_calibration_error(bins: list[CalibrationBin]) -> float:
    """Return the sum of count/total · |accuracy − confidence| over the bins.

    Source: Guo et al., On Calibration of Modern Neural Networks (2017), equation 3; first in Naeini et al.,
    Obtaining Well Calibrated Probabilities Using Bayesian Binning (2015).
    """
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / total


def mcnemar_test(first: Logits, second: Logits, labels: Labels) -> McNemarTest:
    """Compare two classifiers by the examples that only one of them classifies correctly.

    `p_value` is the two-sided exact p-value of McNemar's test. If both were equally good, each such example
    would be a fair coin toss between them. Without such examples it is 1.
    Source: McNemar, Note on the sampling error of the difference between correlated proportions (1947).
    """
    from scipy.stats import binomtest

    first_correct, second_correct = (np.argmax(logits, axis=1) == labels for logits in (first, second))
    first_only = int(np.sum(first_correct & ~second_correct))
    second_only = int(np.sum(second_correct & ~first_correct))
    discordant = first_only + second_only
    p_value = float(binomtest(first_only, discordant).pvalue) if discordant else 1.0
    return McNemarTest(first_only, second_only, p_value)


def disagreement(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the share of examples on which two members disagree.

    Args:
        logits: [member, example, class].

    Returns:
        Shares [member, member].
    """
    votes = logits.argmax(axis=2)
    return np.asarray((votes[:, None] != votes[None]).mean(axis=2))


def minority_votes(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return how many members vote against the most common class.

    Args:
        logits: [member, example, class].

    Returns:
        Numbers of members [example].
    """
    votes, classes = logits.argmax(axis=2), logits.shape[2]
    largest = np.array([np.bincount(column, minlength=classes).max() for column in votes.T], dtype=np.int64)
    return len(votes) - largest
