"""Which trials make the ensemble, and with which weights: pure functions of validation logits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from convene.training.metrics import Labels, Logits, accuracy, cross_entropy


@dataclass(frozen=True)
class Ranked:
    """A trial with its scores on the validation images."""

    trial: int
    valid_loss: float
    valid_accuracy: float


@dataclass(frozen=True)
class Member:
    """A trial's share of the ensemble; the weights of all members add up to 1."""

    trial: int
    weight: float


@dataclass(frozen=True)
class Selection:
    """Members in order of rank, and what their averaged logits score on the validation images."""

    members: tuple[Member, ...]
    valid_loss: float
    valid_accuracy: float


def rank(logits: Mapping[int, Logits], labels: Labels, rank_by: str) -> list[Ranked]:
    """Trials from best to worst by `valid_loss` or `valid_accuracy`; ties go by the other, then number."""
    ranked = [Ranked(trial, cross_entropy(z, labels), accuracy(z, labels)) for trial, z in logits.items()]
    if rank_by == "valid_loss":
        return sorted(ranked, key=lambda r: (r.valid_loss, -r.valid_accuracy, r.trial))
    return sorted(ranked, key=lambda r: (-r.valid_accuracy, r.valid_loss, r.trial))


def top_k(logits: Mapping[int, Logits], labels: Labels, *, size: int, rank_by: str) -> Selection:
    """The `size` best trials (or all there are) with equal weights.

    Args:
        logits: validation logits [example, class] by trial; at least one trial.
        labels: of the validation images [example].
        size: members, at most.
        rank_by: `valid_loss` or `valid_accuracy`.
    """
    best = rank(logits, labels, rank_by)[:size]
    members = tuple(Member(ranked.trial, 1 / len(best)) for ranked in best)
    averaged = average(logits, members)
    return Selection(members, cross_entropy(averaged, labels), accuracy(averaged, labels))


@dataclass(frozen=True)
class EnsembleScore:
    """What the best `size` trials score on the validation images, with equal weights."""

    size: int
    valid_loss: float
    valid_accuracy: float


def by_size(
    logits: Mapping[int, Logits], labels: Labels, *, largest: int, rank_by: str
) -> list[EnsembleScore]:
    """The ensembles that `top_k` makes for 1, 2, … and `largest` members, or as many as there are."""
    total, ensembled = np.zeros_like(next(iter(logits.values())), dtype=np.float64), []
    for size, ranked in enumerate(rank(logits, labels, rank_by)[:largest], 1):
        total = total + logits[ranked.trial]
        ensembled.append(EnsembleScore(size, cross_entropy(total / size, labels), accuracy(total, labels)))
    return ensembled


def average(logits: Mapping[int, Logits], members: tuple[Member, ...]) -> Logits:
    """The members' weighted mean logits [example, class]."""
    weighted = [member.weight * logits[member.trial] for member in members]
    return np.asarray(np.sum(weighted, axis=0))
