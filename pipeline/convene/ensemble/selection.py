"""Selection of an ensemble's members and weights: pure functions of validation logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from convene.config.schema import EnsembleConfig
from convene.training.metrics import Labels, Logits, accuracy, cross_entropy


@dataclass(frozen=True)
class Ranked:
    """A trial with its scores on the validation images."""

    trial: int
    valid_loss: float
    valid_accuracy: float


@dataclass(frozen=True)
class Member:
    """A trial in the ensemble, and its weight; the weights of all members add up to 1."""

    trial: int
    weight: float


@dataclass(frozen=True)
class Selection:
    """The members from best to worst, and the validation scores of their averaged logits."""

    members: tuple[Member, ...]
    valid_loss: float
    valid_accuracy: float
    valid_accuracies: Mapping[int, float]
    """The members' own accuracies by trial."""


@dataclass(frozen=True)
class EnsembleScore:
    """The validation scores of the best `size` trials with equal weights."""

    size: int
    valid_loss: float
    valid_accuracy: float


class Method(Protocol):
    """A method of choosing members and weights from validation logits; `top_k` documents the arguments."""

    def __call__(self, logits: Mapping[int, Logits], labels: Labels, *, size: int, rank_by: str) -> Selection:
        """Choose members and weights."""
        ...


def choose(
    logits: Mapping[int, Logits], labels: Labels, config: EnsembleConfig, method: str = "top-k"
) -> Selection:
    """Choose members and weights with a method of `METHODS` and the configuration's settings."""
    return METHODS[method](logits, labels, size=config.size, rank_by=config.rank_by)


def top_k(logits: Mapping[int, Logits], labels: Labels, *, size: int, rank_by: str) -> Selection:
    """Choose the `size` best trials, or all of them if there are fewer, with equal weights.

    Args:
        logits: validation logits [example, class] by trial; at least one trial.
        labels: the validation labels [example].
        size: the largest number of members.
        rank_by: `valid_loss` or `valid_accuracy`.
    """
    best = rank(logits, labels, rank_by)[:size]
    members = tuple(Member(ranked.trial, 1 / len(best)) for ranked in best)
    averaged = average(logits, members)
    accuracies = {ranked.trial: ranked.valid_accuracy for ranked in best}
    return Selection(members, cross_entropy(averaged, labels), accuracy(averaged, labels), accuracies)


METHODS: Mapping[str, Method] = {"top-k": top_k}
"""The selection methods by name."""


def rank(logits: Mapping[int, Logits], labels: Labels, rank_by: str) -> list[Ranked]:
    """Sort trials from best to worst by `valid_loss` or `valid_accuracy`, then the other, then by number."""
    ranked = [Ranked(trial, cross_entropy(z, labels), accuracy(z, labels)) for trial, z in logits.items()]
    if rank_by == "valid_loss":
        return sorted(ranked, key=lambda r: (r.valid_loss, -r.valid_accuracy, r.trial))
    return sorted(ranked, key=lambda r: (-r.valid_accuracy, r.valid_loss, r.trial))


def scores_by_size(
    logits: Mapping[int, Logits], labels: Labels, *, largest: int, rank_by: str
) -> list[EnsembleScore]:
    """Score `top_k` ensembles of 1, 2, … members, up to `largest` or the number of trials."""
    total, scores = np.zeros_like(next(iter(logits.values())), dtype=np.float64), []
    for size, ranked in enumerate(rank(logits, labels, rank_by)[:largest], 1):
        total = total + logits[ranked.trial]
        scores.append(EnsembleScore(size, cross_entropy(total / size, labels), accuracy(total, labels)))
    return scores


def average(logits: Mapping[int, Logits], members: tuple[Member, ...]) -> Logits:
    """Return the members' weighted mean logits [example, class]."""
    weighted = [member.weight * logits[member.trial] for member in members]
    return np.asarray(np.sum(weighted, axis=0))
