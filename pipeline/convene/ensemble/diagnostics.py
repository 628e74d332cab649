"""Where and how a classifier errs: pure functions of logits and labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convene.training.metrics import Labels, Logits

CALIBRATION_BINS = 15  # of equal width, as Guo et al. count


@dataclass(frozen=True)
class CalibrationBin:
    """The examples whose highest probability lies in one of the bins."""

    count: int
    right: int
    confidence: float
    """Mean of the highest probabilities."""

    @property
    def accuracy(self) -> float:
        """Share of the examples that are right."""
        return self.right / self.count


@dataclass(frozen=True)
class McNemarTest:
    """Two classifiers on the same examples: what one got right and the other wrong."""

    first_only: int
    second_only: int
    p_value: float
    """How often two equally good classifiers would differ at least so much; see `duel`."""


def probabilities(logits: Logits) -> NDArray[np.float64]:
    """Softmax of each row of logits [example, class]."""
    from scipy.special import softmax

    return np.asarray(softmax(np.asarray(logits, dtype=np.float64), axis=1))


def confusion(logits: Logits, labels: Labels) -> NDArray[np.int64]:
    """Counts [truth, prediction]."""
    classes = logits.shape[1]
    cells = np.asarray(labels) * classes + np.argmax(logits, axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def calibration(logits: Logits, labels: Labels) -> list[CalibrationBin]:
    """The bins (i/15, (i + 1)/15] of the highest probability that have examples, in order."""
    confidence, right = probabilities(logits).max(axis=1), np.argmax(logits, axis=1) == labels
    places = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    return [
        CalibrationBin(int(inside.sum()), int(right[inside].sum()), float(confidence[inside].mean()))
        for inside in (places == place for place in range(CALIBRATION_BINS))
        if inside.any()
    ]


def expected_calibration_error(bins: list[CalibrationBin]) -> float:
    """Σ count/total · |accuracy − confidence| over the bins.

    Source: Guo et al., On Calibration of Modern Neural Networks (2017), equation 3; first in Naeini et al.,
    Obtaining Well Calibrated Probabilities Using Bayesian Binning (2015).
    """
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / total


def mcnemar_test(first: Logits, second: Logits, labels: Labels) -> McNemarTest:
    """Compares two classifiers by the examples that one of them alone gets right.

    `p_value` is the two-sided exact p-value of McNemar's test: were both equally good, such an example would
    fall to either like a fair coin. 1 where there are none.
    Source: McNemar, Note on the sampling error of the difference between correlated proportions (1947).
    """
    from scipy.stats import binomtest

    rights = [np.argmax(logits, axis=1) == labels for logits in (first, second)]
    first_only, second_only = int(np.sum(rights[0] & ~rights[1])), int(np.sum(rights[1] & ~rights[0]))
    decided = first_only + second_only
    return McNemarTest(
        first_only, second_only, float(binomtest(first_only, decided).pvalue) if decided else 1.0
    )


def disagreement(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Share of examples that two members class differently, [member, member], of [member, example, class]."""
    votes = logits.argmax(axis=2)
    return np.asarray((votes[:, None] != votes[None]).mean(axis=2))


def minority_votes(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """How many members are not with the largest group, [example], of logits [member, example, class]."""
    votes, classes = logits.argmax(axis=2), logits.shape[2]
    largest = np.array([np.bincount(column, minlength=classes).max() for column in votes.T], dtype=np.int64)
    return len(votes) - largest
