"""The progress of a running sweep."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import final

from convene.config.schema import SearchConfig
from convene.records.trials import TrialView
from convene.search.study import Study
from convene.search.time_budget import TimeBudget
from convene.search.trial_state import TrialState


@dataclass(frozen=True)
class RunningTrial:
    """A running trial at one moment."""

    number: int
    epoch: int
    """Epochs that it has finished."""
    epochs: int
    """Epochs that it is to have."""
    value: float | None
    """Its validation objective after the last epoch; None before the first."""


@dataclass(frozen=True)
class Progress:
    """A sweep at one moment."""

    trials: int
    """Trials asked for."""
    objective: str
    """The validation objective that trials are ranked by."""
    end: float | None
    """End of the time budget, in seconds of `time.monotonic`."""
    running_trials: tuple[RunningTrial, ...] = ()
    """The running trials, in order of number."""
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    best: tuple[int, float] | None = None
    """Number and validation objective of the best complete trial."""
    event: str = ""
    """The last event, in one line."""
    search_ended: bool = False
    """True once no trial will follow, while the ensemble is built and exported."""

    @property
    def running(self) -> int:
        """The number of running trials."""
        return len(self.running_trials)

    @property
    def done(self) -> int:
        """The trials that have ended, in any state."""
        return self.complete + self.pruned + self.failed

    @property
    def work_done(self) -> float:
        """The trials that have ended, and the trained fractions of those that run."""
        return self.done + sum(trial.epoch / trial.epochs for trial in self.running_trials)


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

    def report(self, event: str, running: Iterable[TrialView]) -> None:
        """Report an event and the running trials."""
        trials = sorted(map(self._running_trial, running), key=lambda trial: trial.number)
        self._progress = replace(self._progress, event=event, running_trials=tuple(trials))
        self._watch(self._progress)

    def end_search(self) -> None:
        """Report that no trial will follow."""
        self._progress = replace(self._progress, search_ended=True)
        self.report("the search has ended", ())

    def _running_trial(self, view: TrialView) -> RunningTrial:
        value = getattr(view.epochs[-1], self._progress.objective) if view.epochs else None
        return RunningTrial(view.number, len(view.epochs), view.settings["training.epochs"], value)
