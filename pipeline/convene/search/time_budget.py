"""Keeps a sweep to its time: which trials may start or go on."""

import time
from dataclasses import dataclass
from typing import final

from convene.config.schema import Configuration
from convene.errors import InputError

# The final stage, as measured: export and start of the runtimes, then each test image through each member
# three times (live, ONNX, pt2), without a backward pass and with all processors: 0.3 of the time that one
# worker trains on it for. Generous, because others may use the machine too.
_FINAL_SECONDS = 15.0
_FINAL_PASSES = 0.7


def final_seconds(images: int, images_per_second: float) -> float:
    """What is set aside for the final stage.

    Args:
        images: that it scores: those of the test, once for each member.
        images_per_second: that a worker trains on; 0 where that is not known.
    """
    return _FINAL_SECONDS + (_FINAL_PASSES * images / images_per_second if images_per_second else 0.0)


@dataclass(frozen=True)
class TrialPace:
    """The progress of a trial after an epoch, and its speed."""

    epoch: int
    epochs: int
    """Epochs that the trial is to have."""
    seconds: float
    """Time for the epochs so far, training and validation."""
    images_per_second: float
    """Speed of training alone."""


@final
class TimeBudget:
    """Ends training early enough for the whole command to keep to `search.time_budget`.

    Once a trial is complete, no other is begun or gone on with that could not be complete in time: a trial
    cut short is worth little, and its processor is worth more to one that can finish.

    Args:
        started: when the command began, in seconds of `time.monotonic`.
        config: the run's, for its budget and the size of its ensemble.
        test_images: how many the final stage has to score.

    Raises:
        InputError: if the budget leaves no time to train.
    """

    REASON = "no time left to finish"

    def __init__(self, started: float, config: Configuration, test_images: int) -> None:
        budget = config.search.time_budget
        if budget is not None and budget <= _FINAL_SECONDS:
            raise InputError(
                f"search.time_budget = {budget:g} s: the final stage alone takes about {_FINAL_SECONDS:g} s"
            )
        self.end = None if budget is None else started + budget
        """When the command is to end, in seconds of `time.monotonic`."""
        self._images = test_images * min(config.ensemble.size, config.search.trials)
        self._images_per_second = 0.0
        self._fastest: float | None = None

    @property
    def _deadline(self) -> float:
        """When training must end: what the final stage takes is guessed from the speed of training."""
        if self.end is None:
            return float("inf")
        return self.end - final_seconds(self._images, self._images_per_second)

    def note(self, pace: TrialPace) -> None:
        """Learn the speed of training from an epoch, and the duration of a trial from its last one."""
        self._images_per_second = pace.images_per_second
        if pace.epoch == pace.epochs:
            self._fastest = min(self._fastest or pace.seconds, pace.seconds)

    def is_late(self, pace: TrialPace) -> bool:
        """Return whether a trial is to stop after this epoch because it could not finish in time."""
        if self._fastest is None:
            return self.is_over()
        left = pace.seconds / pace.epoch * (pace.epochs - pace.epoch)
        return time.monotonic() + left > self._deadline

    def may_start(self) -> bool:
        """Whether the quickest trial so far would still be in time."""
        return time.monotonic() + (self._fastest or 0) < self._deadline

    def is_over(self) -> bool:
        """Whether all training has to end; trials in their first epoch then have nothing to show."""
        return time.monotonic() > self._deadline
