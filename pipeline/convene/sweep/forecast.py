"""The duration of a sweep, computed from the duration of its epochs."""

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from convene.config.schema import Configuration
from convene.config.search_space import SearchSpace
from convene.search.pruning import rungs
from convene.search.time_budget import final_seconds

TRIAL_SECONDS = 0.2
"""Cost of a trial beyond its training: `python -m tests.bench overhead`."""


@dataclass(frozen=True)
class Forecast:
    """Durations of trials and of the whole sweep, in seconds."""

    trial: float
    """Training time of a complete trial, on average over the space."""
    least: float
    most: float
    sweep: tuple[float, float]
    """Duration of the command if weak trials are stopped as early as expected, and if none is."""
    budget: float | None
    """Time that `search.time_budget` leaves for training."""
    budget_trials: tuple[int, int] | None
    """Trials that fit in the budget if none is stopped, and if weak ones are."""


def forecast(
    space: SearchSpace,
    epochs: Sequence[tuple[Configuration, float]],
    *,
    start_seconds: float,
    concurrency: int,
    train: int,
    test: int,
) -> Forecast:
    """Forecast a sweep from the duration of an epoch of at least one configuration.

    Args:
        space: the space that the configurations are a sample of.
        epochs: configurations, each with the seconds of an epoch.
        start_seconds: time until the first trial trains.
        concurrency: trials at a time.
        train: training images.
        test: test images, which the final stage scores.
    """
    search, trials = space.base.search, space.base.search.trials
    complete = [seconds * configuration.training.epochs for configuration, seconds in epochs]
    halved = [
        seconds * epochs_with_halving(rungs(space), search.reduction_factor, configuration.training.epochs)
        for configuration, seconds in epochs
    ]
    images_per_second = train / statistics.fmean(seconds for _, seconds in epochs)
    scored = test * min(space.base.ensemble.size, trials)
    around = start_seconds + final_seconds(scored, images_per_second)
    early, late = (statistics.fmean(seconds) + TRIAL_SECONDS for seconds in (halved, complete))
    sweep = [around + seconds * math.ceil(trials / concurrency) for seconds in (early, late)]
    left = fitting = None
    if budget := search.time_budget:
        sweep = [min(seconds, budget) for seconds in sweep]
        left = max(0.0, budget - around)
        fitting = [min(trials, int(left / seconds) * concurrency) for seconds in (late, early)]
    return Forecast(
        trial=statistics.fmean(complete),
        least=min(complete),
        most=max(complete),
        sweep=(sweep[0], sweep[1]),
        budget=left,
        budget_trials=(fitting[0], fitting[1]) if fitting else None,
    )


def epochs_with_halving(rungs: Collection[int], reduction_factor: int, epochs: int) -> float:
    """Return the mean number of epochs of a trial if one in `reduction_factor` continues after each rung.

    Asynchronous halving approaches that with many trials; the first ones at a rung continue more often.
    """
    trained, continuing, since = 0.0, 1.0, 0
    for rung in (*sorted(rung for rung in rungs if rung < epochs), epochs):
        trained += continuing * (rung - since)
        continuing, since = continuing / reduction_factor, rung
    return trained
