"""Trials that get another try on their own: they ran out of memory, or their workers were killed."""

from collections import Counter
from collections.abc import Sequence
from typing import final


@final
class Retries:
    """Decides which trials are tried again alone, and which have failed for good.

    Args:
        limit: how often a trial may be killed and tried again.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._killed: Counter[int] = Counter()
        self._set_aside: dict[int, str] = {}
        """Trials that ran out of memory beside others, with the error; each is to be tried alone."""
        self._last_started: int | None = None
        self.alone = False
        """True while each trial runs alone."""

    def begin(self, *, alone: bool) -> None:
        """Begin a round in which trials run alone, or beside each other."""
        self.alone, self._last_started = alone, None

    def start(self, number: int) -> bool:
        """Note that a trial starts. Return whether it had been set aside and is now tried alone."""
        self._last_started = number
        return self.alone and self._set_aside.pop(number, None) is not None

    def set_aside(self, number: int, reason: str) -> None:
        """Leave a trial that ran out of memory beside others for a round alone."""
        self._set_aside[number] = reason

    @property
    def has_set_aside(self) -> bool:
        """Return whether trials are left to be tried alone."""
        return bool(self._set_aside)

    def reason(self, number: int) -> str | None:
        """Return the error of a trial that was set aside and not tried again."""
        return self._set_aside.get(number)

    def fails_after_kill(self, running: Sequence[int]) -> int | None:
        """Return the trial that has failed now that Ray killed workers; None while all may be tried again.

        Of several running trials none is to blame yet: each will be tried alone.
        """
        if not running or (len(running) > 1 and not self.alone):
            return None
        # The others wait; if a worker died before its trial began, that was the first in turn.
        last = self._last_started
        number = last if last is not None and last in running else running[0]
        self._killed[number] += 1
        return number if self._killed[number] > self._limit else None
