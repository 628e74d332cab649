"""The time budget of a sweep: which trials may start or continue."""

import time
from dataclasses import dataclass
from typing import final

from convene.config.schema import Configuration
from convene.errors import InputError

# Measured: the export and the start of the runtimes, then each test image through each member three times
# (live, ONNX, pt2) without a backward pass on all processors: 0.3 of the time that one worker trains on as
# many images. Generous, because others may use the machine too.
_FINAL_SECONDS = 15.0
_FINAL_PASSES = 0.7


def final_seconds(images: int, images_per_second: float) -> float:
    """Return the seconds to reserve for the final stage.

    Args:
        images: test images to score, times the number of members.
        images_per_second: training speed of a worker; 0 if unknown.
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
    """Ends training early enough for the whole command to keep within `search.time_budget`.

    Once a trial is complete, no other starts or continues that could not complete in time: a truncated trial
    is worth little, and a trial that can finish makes better use of its processor.

    Args:
        started: when the command began, in seconds of `time.monotonic`.
        config: the run's configuration, for its budget and the size of its ensemble.
        test_images: number of images that the final stage has to score.

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
        """Deadline of the command, in seconds of `time.monotonic`."""
        self._images = test_images * min(config.ensemble.size, config.search.trials)
        self._images_per_second = 0.0
        self._fastest: float | None = None

    @property
    def _deadline(self) -> float:
        """End of training; the final stage's duration is estimated from the speed of training."""
        if self.end is None:
            return float("inf")
        return self.end - final_seconds(self._images, self._images_per_second)

    def seconds_left(self) -> float:
        """Return the time left to train."""
        return max(0.0, self._deadline - time.monotonic())

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
        """Return whether a trial as short as the fastest so far would still finish in time."""
        return time.monotonic() + (self._fastest or 0) < self._deadline

    def is_over(self) -> bool:
        """Return whether all training has to end, also of trials in their first epoch."""
        return time.monotonic() > self._deadline
