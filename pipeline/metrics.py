"""What is measured: an epoch's row, and pure functions of logits and labels."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.floating]  # [example, class]
Labels = NDArray[np.integer]  # [example]


@dataclass(frozen=True)
class Epoch:
    """One row of a learning curve.

    `epoch` counts from 1; losses are mean cross-entropies in nats, the training one with label smoothing
    and over the epoch's changing weights; `images_per_second` counts training alone.
    """

    epoch: int
    train_loss: float
    valid_loss: float
    valid_accuracy: float
    images_per_second: float

    def metrics(self) -> dict[str, float]:
        """The row without its step, by the names that tracking and tables use."""
        row = asdict(self)
        del row["epoch"]
        return row


def accuracy(logits: Logits, labels: Labels) -> float:
    """Share of examples whose largest logit is at their label; the first of equal logits counts."""
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def cross_entropy(logits: Logits, labels: Labels) -> float:
    """Mean negative log-probability of the labels, in nats; not finite where a logit is not."""
    from scipy.special import log_softmax

    with np.errstate(over="ignore", invalid="ignore"):  # a diverged network's loss is not finite either
        log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def accuracy_interval(logits: Logits, labels: Labels, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high): Wilson's score interval of the accuracy on examples like these (Wilson 1927)."""
    from scipy.stats import binomtest

    right = int(np.sum(np.argmax(logits, axis=1) == labels))
    interval = binomtest(right, len(labels)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
