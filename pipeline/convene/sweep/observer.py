"""The adapter between Ray Tune and a sweep: it sees each result first, and decides which trials stop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from optuna.exceptions import StorageInternalError
from ray import tune
from ray.tune.experiment import Trial

from convene.errors import last_line
from convene.records.open_sweep import OpenSweep
from convene.records.trials import TrialView
from convene.search.time_budget import TimeBudget, TrialPace
from convene.search.trial_state import CANDIDATES, TrialState
from convene.storage import StorageError, is_storage_failure
from convene.sweep.network_retention import NetworkRetention
from convene.sweep.progress import Progress, ProgressReporter
from convene.sweep.retries import Retries
from convene.sweep.step_report import StepOutcome, StepReport
from convene.tracking.tracker import Tracker
from convene.training import checkpoint
from convene.training.metrics import Epoch


@final
class Observer(tune.Callback, tune.Stopper):
    """Tune's stopper, which sees every result, and its callback, which sees every end.

    Passes them to the study, the tracker, the retention of networks, the retries and the listener.
    """

    def __init__(
        self,
        sweep: OpenSweep,
        tracker: Tracker,
        budget: TimeBudget,
        watch: Callable[[Progress], None],
        note_pace: Callable[[TrialPace], None] = lambda pace: None,
    ) -> None:
        config = sweep.space.base
        self._study, self._tracker, self._files = sweep.study, tracker, sweep.record.files
        self._search, self._budget, self._note_pace = config.search, budget, note_pace
        self._retention = NetworkRetention(self._files, self._study, config.ensemble.saved_networks)
        self._progress = ProgressReporter(self._study, config.search, budget, watch)
        self.retries = Retries(config.search.retries)
        self._views: dict[int, TrialView] = {}
        self._stops: dict[int, str] = {}
        """Reasons why running trials are to stop."""
        self._fatal: Exception | None = None
        """The error that ends the whole sweep, to be resumed: the storage or the study's database failed."""

    @property
    def has_set_aside(self) -> bool:
        """Return whether trials are left to be tried alone, with time to do so."""
        return self.retries.has_set_aside and self._budget.may_start() and not self.stop_all()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing for Tune to save: a sweep is resumed from its study, not from Tune's state."""
        return {}

    # Tune calls the following with its own arguments.

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show the trial, unless it continues after its worker died and is shown already."""
        number = trial.config["number"]
        if self.retries.start(number):
            self._report(f"trial {number} is tried alone")
        if number in self._views:
            return
        self._show(TrialView(number, self._study.settings(number), started=time.time()))
        self._report(f"trial {number} started")

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Record an epoch. Return whether the trial is to stop."""
        report = StepReport.from_result(result)
        if report is None:
            return False
        if report.outcome is StepOutcome.STORAGE_FAILURE:
            self._fatal = (
                OSError(report.errno, report.reason) if report.errno else StorageError(report.reason)
            )
        if report.epoch is None:
            return False
        self._record(report, report.epoch)
        return report.number in self._stops

    def stop_all(self) -> bool:
        """Return whether all training has to end."""
        return self._budget.is_over() or self._fatal is not None

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """End a trial that was stopped or is done."""
        number = trial.config["number"]
        report = StepReport.from_result(trial.last_result or {})
        assert report, "a trial ends by a report"
        match report.outcome:
            case StepOutcome.STORAGE_FAILURE:
                pass  # left as it is, to be resumed
            case StepOutcome.OUT_OF_MEMORY if not self.retries.alone:
                self.retries.set_aside(number, report.reason)
                self._report(f"trial {number} is set aside, to be tried alone: {report.reason}")
            case StepOutcome.OUT_OF_MEMORY:
                self._end(number, TrialState.FAIL, reason=f"out of memory, also alone: {report.reason}")
            case StepOutcome.DIVERGED:
                self._end(number, TrialState.FAIL, reason=report.reason)
            case _ if number in self._stops:
                self._end(number, TrialState.PRUNED, reason=self._stops[number])
            case _:
                values = [report.value(objective) for objective in self._search.objectives]
                self._end(number, TrialState.COMPLETE, values=values)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """End a trial whose worker died more often than `search.retries` allows."""
        self._end(trial.config["number"], TrialState.FAIL, reason=_worker_error(trial))

    # The tuner calls the following.

    def note_killed(self, reason: str) -> None:
        """Note that Ray killed workers, and fail the trial that has no retries left."""
        failed = self.retries.fails_after_kill(self._study.open_trials)
        if failed is not None:
            self._end(failed, TrialState.FAIL, reason=reason)

    def close(self) -> None:
        """End the trials that Tune dropped silently when time was over.

        Raises:
            OSError: if the storage is full or away; the running trials can be resumed.
            StorageInternalError: if the study's database does not answer; likewise.
        """
        if self._fatal is not None:
            self.interrupt()
            raise self._fatal
        for number in self._study.open_trials:
            memory = self.retries.reason(number)
            reason = f"out of memory beside others, and no time to try it alone: {memory}"
            self._end(number, TrialState.PRUNED, reason=reason if memory else TimeBudget.REASON)
        self._progress.end_search()

    def interrupt(self) -> None:
        """Show running trials as killed; the study keeps them as running, to be resumed."""
        for view in self._views.values():
            self._tracker.log_trial(
                replace(view, state=TrialState.PRUNED, reason="interrupted", ended=time.time())
            )

    def _record(self, report: StepReport, last: Epoch) -> None:
        number = report.number
        with self._ending_the_sweep_on_storage_failure():
            rows = self._new_epochs(number, last)
            for row in rows:
                self._study.report(number, row.epoch, getattr(row, self._search.primary_objective))
                view = self._views[number]
                self._show(replace(view, epochs=(*view.epochs, row)))
            self._budget.note(report.pace)
            self._note_pace(report.pace)
            if reason := self._reason_to_stop(report, rows):
                self._stops[number] = reason
        self._report(
            f"trial {number} epoch {last.epoch}/{report.epochs}: "
            f"valid_loss {last.valid_loss:.4f}, valid_accuracy {last.valid_accuracy:.4f}"
        )

    def _new_epochs(self, number: int, last: Epoch) -> list[Epoch]:
        """Return the epochs not recorded yet: nearly always the last alone."""
        known = len(self._views[number].epochs)
        if last.epoch <= known:
            return []
        if last.epoch == known + 1:
            return [last]
        # An earlier process, or a worker that died, left more epochs than it reported.
        record = checkpoint.load_record(self._files, number)
        assert record, "a worker writes the record before it reports an epoch"
        return list(record.epochs[known : last.epoch])

    def _reason_to_stop(self, report: StepReport, rows: list[Epoch]) -> str | None:
        if report.is_last:
            return None
        if self._budget.is_late(report.pace):
            return TimeBudget.REASON
        for row in rows:
            if self._study.should_prune(report.number, row.epoch):
                return f"not among the best at epoch {row.epoch}"
        return None

    def _end(
        self, number: int, state: TrialState, *, values: list[float] | None = None, reason: str | None = None
    ) -> None:
        with self._ending_the_sweep_on_storage_failure():
            self._study.tell(number, state, values, reason)
        if self._fatal is not None:
            return
        view = self._views.pop(number, None)
        with self._ending_the_sweep_on_storage_failure():
            self._retention.end(
                number, state, self._last_epoch(number, view) if state in CANDIDATES else None
            )
        if view:
            self._tracker.log_trial(replace(view, state=state, reason=reason, ended=time.time()))
        self._progress.count_states()
        self._report(f"trial {number} {state}" + (f": {reason}" if reason else ""))

    def _last_epoch(self, number: int, view: TrialView | None) -> Epoch | None:
        """Return a trial's last epoch; one without time to continue was trained by an earlier process."""
        if view and view.epochs:
            return view.epochs[-1]
        record = checkpoint.load_record(self._files, number)
        return record.last if record else None

    @contextmanager
    def _ending_the_sweep_on_storage_failure(self) -> Iterator[None]:
        """Note an error that ends the whole sweep, since Tune would blame the trial for it."""
        try:
            yield
        except StorageInternalError as error:
            self._fatal = error
        except OSError as error:
            if not is_storage_failure(error):
                raise
            self._fatal = error

    def _show(self, view: TrialView) -> None:
        self._views[view.number] = view
        self._tracker.log_trial(view)

    def _report(self, event: str) -> None:
        self._progress.report(event, self._views.values())


def _worker_error(trial: Trial) -> str:
    """Return the error as Tune noted it; `Trial.get_error` would look where it is copied to later."""
    noted = Path(trial.error_file) if trial.error_file else None
    text = noted.read_text() if noted and noted.exists() else "its worker died"
    killed = (line for line in text.splitlines() if "killed due to" in line)  # by Ray; advice follows
    return next(killed, last_line(text))
