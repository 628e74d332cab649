"""What is measured: an epoch's row, and pure functions of logits and labels."""

from dataclasses import dataclass, fields

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
        return {name: getattr(self, name) for name in METRICS}


METRICS = tuple(field.name for field in fields(Epoch) if field.name != "epoch")
"""Names of what an epoch measures."""


def accuracy(logits: Logits, labels: Labels) -> float:
    """Share of examples whose largest logit is at their label; the first of equal logits counts."""
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def losses(logits: Logits, labels: Labels) -> NDArray[np.float64]:
    """Each example's negative log-probability of its label, in nats; not finite where a logit is not."""
    from scipy.special import log_softmax

    with np.errstate(over="ignore", invalid="ignore"):  # a diverged network's loss is not finite either
        log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return np.asarray(-log_probabilities[np.arange(len(labels)), labels])


def cross_entropy(logits: Logits, labels: Labels) -> float:
    """Mean negative log-probability of the labels, in nats; not finite where a logit is not."""
    return float(losses(logits, labels).mean())


def accuracy_interval(logits: Logits, labels: Labels, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high): Wilson's score interval of the accuracy on examples like these."""
    right = int(np.sum(np.argmax(logits, axis=1) == labels))
    return share_interval(right, len(labels), confidence)


def share_interval(right: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high): Wilson's score interval of a share, seen `right` of `count` times (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
