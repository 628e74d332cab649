"""Asynchronous successive halving: the epochs after which trials are compared, and which of them continue.

Source: Li et al., A System for Massively Parallel Hyperparameter Tuning (2020).
"""

import math
from collections.abc import Sequence

import numpy as np

from convene.config.schema import SearchConfig
from convene.config.search_space import SearchSpace


def rungs(space: SearchSpace) -> set[int]:
    """Return the epochs after which weak trials are stopped.

    A rung after the first is left out if a trial stopped there had used most of its epochs: little is saved,
    and an ensemble needs complete trials.
    """
    search, epochs = space.base.search, most_epochs(space)
    rung = search.grace_epochs or math.ceil(epochs / 3)
    found = {rung} if search.scheduler == "asha" and rung < epochs else set()
    while found and (rung := rung * search.reduction_factor) <= epochs / search.reduction_factor:
        found.add(rung)
    return found


def most_epochs(space: SearchSpace) -> int:
    """Return the largest number of epochs in the space."""
    parameter = space.searched.get("training.epochs")
    if not parameter:
        return space.base.training.epochs
    return int(max([*(parameter.all_values or []), *parameter.inactive_default("training.epochs")]))


def should_prune(value: float, others: Sequence[float], search: SearchConfig) -> bool:
    """Return whether a trial with this validation objective is outside the best 1/`reduction_factor`.

    `others` are the values of earlier trials at the rung; the first trial always continues.
    """
    if not others:
        return False
    share = 100 / search.reduction_factor
    if search.minimize:
        return value > float(np.percentile(others, share))
    return value < float(np.percentile(others, 100 - share))
