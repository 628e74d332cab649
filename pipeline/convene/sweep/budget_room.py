"""The number of trials that a time budget has room for, and the settings that make room for more."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from convene.config.search_space import SearchSpace
from convene.formatting import clock, plural
from convene.records.open_sweep import OpenSweep
from convene.search.pruning import rungs
from convene.search.time_budget import TimeBudget, TrialPace
from convene.sweep.forecast import TRIAL_SECONDS, epochs_with_halving

_MIN_IMAGES = 100  # of the training images that a proposal leaves


@dataclass(frozen=True)
class Room:
    """The time that is left for training, and the duration of a trial."""

    space: SearchSpace
    train: int
    """Training images."""
    seconds: float
    """Time for training."""
    concurrency: int
    """Trials at a time."""
    epoch_seconds: float
    epochs: float
    """Epochs of a complete trial, on average."""

    @property
    def trial_seconds(self) -> float:
        """The duration of a complete trial."""
        return self.epoch_seconds * self.epochs + TRIAL_SECONDS

    @property
    def fewest(self) -> int:
        """The trials that there is room for if none is pruned."""
        return self._trials(self.epochs)

    @property
    def most(self) -> int:
        """The trials that there is room for if weak ones are pruned as early as expected."""
        factor = self.space.base.search.reduction_factor
        return self._trials(epochs_with_halving(rungs(self.space), factor, round(self.epochs)))

    def _trials(self, epochs: float) -> int:
        return int(self.seconds / (self.epoch_seconds * epochs + TRIAL_SECONDS)) * self.concurrency

    def proposals(self) -> str:
        """Return what makes room for twice the ensemble, or for all trials: settings with their values."""
        search = self.space.base.search
        trials = min(search.trials, 2 * self.space.base.ensemble.size)
        rounds = math.ceil(trials / self.concurrency)
        share = (self.seconds / rounds - TRIAL_SECONDS) / (self.epoch_seconds * self.epochs)
        found = []
        if (epochs := int(self.epochs * share)) >= 1:
            found.append(f"training.epochs = {epochs}")
        if (images := _two_digits(self.train * share)) >= _MIN_IMAGES:
            found.append(f"data.train_limit = {images}")
        missing = rounds * self.trial_seconds - self.seconds
        found.append(f'search.time_budget = "{math.ceil(((search.time_budget or 0) + missing) / 60)}m"')
        return f"room for {plural(trials, 'trial')}: {', or '.join(found)}"


def describe(room: Room, remaining: int) -> str:
    """Return in one line how many of the remaining trials there is room for, and what makes room for more.

    Proposals follow only if there may be fewer complete trials than members of the ensemble.
    """
    fewest, most = (min(trials, remaining) for trials in (room.fewest, room.most))
    takes = f"a trial takes about {clock(room.trial_seconds)}, and {clock(room.seconds)} are left to train"
    if fewest >= remaining:
        return f"time budget: room for all {plural(remaining, 'trial')}; {takes}"
    counts = f"{fewest} to {most}" if fewest < most else str(most or "none")
    text = f"time budget: room for {counts} of {plural(remaining, 'trial')}; {takes}"
    few = fewest < min(remaining, room.space.base.ensemble.size)
    return f"{text}; {room.proposals()}" if few else text


@final
class BudgetRoom:
    """Announces once, from the first epochs, how many trials the time budget has room for.

    Args:
        sweep: its trials are about to start.
        budget: its time budget; without one, nothing is announced.
        concurrency: trials at a time.
        announce: called with the message.
    """

    def __init__(
        self, sweep: OpenSweep, budget: TimeBudget, concurrency: int, announce: Callable[[str], None]
    ) -> None:
        self._space, self._train = sweep.space, len(sweep.dataset.train)
        self._budget, self._announce = budget, announce
        self._remaining = max(1, sweep.space.base.search.trials - sum(sweep.study.ended.values()))
        self._concurrency = max(1, min(concurrency, self._remaining))
        self._paces: list[TrialPace] = []
        self._is_announced = budget.end is None

    def note(self, pace: TrialPace) -> None:
        """Learn from an epoch; once enough trials had their first, or one is complete, announce."""
        if self._is_announced:
            return
        if pace.epoch == 1:
            self._paces.append(pace)
        if len(self._paces) < self._concurrency and pace.epoch < pace.epochs:
            return
        self._is_announced = True
        self._announce(describe(self._room(self._paces or [pace]), self._remaining))

    def _room(self, paces: list[TrialPace]) -> Room:
        return Room(
            self._space,
            self._train,
            # These epochs are part of the trials that there is room for.
            self._budget.seconds_left() + max(pace.seconds for pace in paces),
            self._concurrency,
            statistics.fmean(pace.seconds / pace.epoch for pace in paces),
            statistics.fmean(pace.epochs for pace in paces),
        )


def _two_digits(number: float) -> int:
    """Return a number rounded down to two significant digits."""
    if number < 1:
        return 0
    unit: int = 10 ** max(0, int(math.log10(number)) - 1)
    return int(number) // unit * unit
