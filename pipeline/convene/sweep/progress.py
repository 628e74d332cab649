"""The progress of a running sweep."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from convene.config.schema import SearchConfig
from convene.search.study import Study
from convene.search.time_budget import TimeBudget
from convene.search.trial_state import TrialState


@dataclass(frozen=True)
class Progress:
    """A sweep at one moment."""

    trials: int
    """Trials asked for."""
    objective: str
    """The validation objective that trials are ranked by."""
    end: float | None
    """End of the time budget, in seconds of `time.monotonic`."""
    running: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    best: tuple[int, float] | None = None
    """Number and validation objective of the best complete trial."""
    event: str = ""
    """The last event, in one line."""

    @property
    def done(self) -> int:
        """The trials that have ended, in any state."""
        return self.complete + self.pruned + self.failed


@final
class ProgressReporter:
    """Reports each event to a listener, with the counts and the best trial of the study."""

    def __init__(
        self, study: Study, search: SearchConfig, budget: TimeBudget, watch: Callable[[Progress], None]
    ) -> None:
        self._study, self._watch = study, watch
        self._progress = Progress(search.trials, search.primary_objective, budget.end)
        self.count_states()

    def count_states(self) -> None:
        """Read the counts and the best trial again, after a trial has ended."""
        ended = self._study.ended
        self._progress = replace(
            self._progress,
            complete=ended[TrialState.COMPLETE],
            pruned=ended[TrialState.PRUNED],
            failed=ended[TrialState.FAIL],
            best=self._study.best,
        )

    def report(self, event: str, running: int) -> None:
        """Report an event and the number of running trials."""
        self._progress = replace(self._progress, event=event, running=running)
        self._watch(self._progress)
