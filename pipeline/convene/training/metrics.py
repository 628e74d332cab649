"""Metrics of an epoch, and functions of logits and labels."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.floating]  # [example, class]
Labels = NDArray[np.integer]  # [example]


@dataclass(frozen=True)
class Epoch:
    """One row of a learning curve.

    `epoch` counts from 1. Losses are mean cross-entropies in nats; `train_loss` includes label smoothing and
    is averaged over the steps of the epoch. `images_per_second` is the speed of training without validation.
    """

    epoch: int
    train_loss: float
    valid_loss: float
    valid_accuracy: float
    images_per_second: float

    def metrics(self) -> dict[str, float]:
        """Return the values by name, without `epoch`; tracking and tables use the same names."""
        return {name: getattr(self, name) for name in METRICS}


METRICS = tuple(field.name for field in fields(Epoch) if field.name != "epoch")
"""Names of the metrics of an epoch."""


def accuracy(logits: Logits, labels: Labels) -> float:
    """Return the share of examples whose largest logit is that of their label; ties go to the first class."""
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def losses(logits: Logits, labels: Labels) -> NDArray[np.float64]:
    """Return each example's negative log-probability of its label, in nats; not finite if a logit is not."""
    from scipy.special import log_softmax

    with np.errstate(over="ignore", invalid="ignore"):  # a diverged network has logits that are not finite
        log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return np.asarray(-log_probabilities[np.arange(len(labels)), labels])


def cross_entropy(logits: Logits, labels: Labels) -> float:
    """Return the mean negative log-probability of the labels, in nats; not finite if a logit is not."""
    return float(losses(logits, labels).mean())


def accuracy_interval(logits: Logits, labels: Labels, confidence: float = 0.95) -> tuple[float, float]:
    """Return (low, high), Wilson's score interval of the accuracy."""
    correct = int(np.sum(np.argmax(logits, axis=1) == labels))
    return wilson_interval(correct, len(labels), confidence)


def wilson_interval(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return (low, high), Wilson's score interval of a proportion (Wilson 1927).

    Args:
        successes: number of successes among `count` trials.
        count: number of trials, at least 1.
        confidence: probability that an interval like this contains the proportion.
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
