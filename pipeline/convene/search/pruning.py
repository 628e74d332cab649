"""Asynchronous successive halving: after which epochs trials are compared, and which of them go on.

Source: Li et al., A System for Massively Parallel Hyperparameter Tuning (2020).
"""

import math
from collections.abc import Sequence

import numpy as np

from convene.config.schema import SearchConfig
from convene.config.search_space import SearchSpace


def rungs(space: SearchSpace) -> set[int]:
    """The epochs after which weak trials are stopped.

    None but the first is so late that a trial stopped there had used most of its epochs: it saves little, and
    an ensemble wants trials that are complete.
    """
    search, epochs = space.base.search, most_epochs(space)
    rung = search.grace_epochs or math.ceil(epochs / 3)
    found = {rung} if search.scheduler == "asha" and rung < epochs else set()
    while found and (rung := rung * search.reduction_factor) <= epochs / search.reduction_factor:
        found.add(rung)
    return found


def most_epochs(space: SearchSpace) -> int:
    """The most that any configuration of the space trains for."""
    searched = space.searched.get("training.epochs")
    if not searched:
        return space.base.training.epochs
    return int(max([*(searched.candidates or []), *searched.inactive_default("training.epochs")]))


def should_prune(value: float, others: Sequence[float], search: SearchConfig) -> bool:
    """Whether a trial with this objective of validation is not in the best 1/`reduction_factor`.

    `others` are those that were at the rung before it; the first always goes on.
    """
    if not others:
        return False
    share = 100 / search.reduction_factor
    if search.minimize:
        return value > float(np.percentile(others, share))
    return value < float(np.percentile(others, 100 - share))
