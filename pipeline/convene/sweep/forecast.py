"""How long a sweep takes, by how long its epochs do: arithmetic alone."""

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from convene.config.schema import Configuration
from convene.config.search_space import SearchSpace
from convene.search.pruning import rungs
from convene.search.time_budget import final_seconds

_TRIAL_SECONDS = 0.2  # of a trial beyond its training: `python -m tests.bench overhead`


@dataclass(frozen=True)
class Forecast:
    """Seconds of trials and of the whole sweep."""

    trial: float
    """That a complete trial trains, on average over the space."""
    least: float
    most: float
    sweep: tuple[float, float]
    """That the command takes: where weak trials are stopped as early as can be expected; where none is."""
    budget: float | None
    """What `search.time_budget` leaves to train in."""
    budget_trials: tuple[int, int] | None
    """Trials that there is time for: where none is stopped, and where weak ones are."""


def forecast(
    space: SearchSpace,
    epochs: Sequence[tuple[Configuration, float]],
    *,
    start_seconds: float,
    concurrency: int,
    train: int,
    test: int,
) -> Forecast:
    """What follows from the seconds that an epoch of some configurations takes, at least of one.

    Args:
        space: that they are a sample of.
        epochs: each configuration with the seconds of an epoch.
        start_seconds: until the first trial trains.
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
    early, late = (statistics.fmean(seconds) + _TRIAL_SECONDS for seconds in (halved, complete))
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
    """Epochs of a trial on average, where one in `reduction_factor` goes on from each rung.

    Asynchronous halving comes near that with many trials; the first ones at a rung go on more often.
    """
    trained, going_on, since = 0.0, 1.0, 0
    for rung in (*sorted(rung for rung in rungs if rung < epochs), epochs):
        trained += going_on * (rung - since)
        going_on, since = going_on / reduction_factor, rung
    return trained
