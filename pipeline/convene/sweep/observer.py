"""Sees each result of a running sweep first: decides which trials stop, and tells all who should know."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, final

from optuna.exceptions import StorageInternalError
from ray import tune
from ray.tune.experiment import Trial

from convene.config.schema import SearchConfig
from convene.errors import last_line
from convene.records.open_sweep import OpenSweep
from convene.records.trials import TrialView
from convene.search.study import State, Study
from convene.search.time_budget import TimeBudget
from convene.storage import StorageError, is_storage_failure
from convene.tracking.tracker import Tracker
from convene.training import checkpoint
from convene.training.metrics import Epoch


@dataclass(frozen=True)
class Progress:
    """A sweep at a moment."""

    trials: int
    """Trials asked for."""
    objective: str
    """The one of validation that trials are ranked by."""
    end: float | None
    """When the time budget ends, in seconds of `time.monotonic`."""
    running: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    best: tuple[int, float] | None = None
    """Number of the best complete trial, and its objective of validation."""
    event: str = ""
    """What happened last, in a line."""

    @property
    def done(self) -> int:
        """Trials that have ended, in whatever state."""
        return self.complete + self.pruned + self.failed


@final
class Observer(tune.Callback, tune.Stopper):
    """Sees every result first, as Tune's stopper, and every end, as its callback.

    Tells the study, the tracker and whoever watches, and decides which trials stop.
    """

    def __init__(
        self,
        sweep: OpenSweep,
        tracker: Tracker,
        budget: TimeBudget,
        watch: Callable[[Progress], None],
    ) -> None:
        config, study, files = sweep.space.base, sweep.study, sweep.record.files
        self._study, self._tracker, self._files = study, tracker, files
        self._search, self._budget, self._watch = config.search, budget, watch
        self._keep = config.ensemble.networks
        self._views: dict[int, TrialView] = {}
        self._stops: dict[int, str] = {}
        self._killed: Counter[int] = Counter()
        self._alone = False
        self._started: int | None = None
        """The trial that began last, since all are alone or are not."""
        self._set_aside: dict[int, str] = {}
        """Trials that ran out of memory beside others, and with what words; each is to be tried alone."""
        self._fatal: Exception | None = None
        """What ends the whole sweep, to be resumed: a storage that is full or away, or a study's database."""
        ended = {trial.number: trial.state for trial in study.trials() if trial.ended is not None}
        self._with_network = checkpoint.with_network(files, ended)
        self._last: dict[State, dict[int, Epoch]] = {"COMPLETE": {}, "PRUNED": {}}
        """Last epochs of the trials whose networks are kept."""
        for number, record in checkpoint.load_records(files, self._with_network).items():
            if ended[number] in self._last:
                self._last[ended[number]][number] = record.last
        self.progress = _progress(study, config.search, budget)

    def begin(self, *, alone: bool) -> None:
        """From now on each trial is alone, or is not."""
        self._alone, self._started = alone, None

    @property
    def has_set_aside(self) -> bool:
        """Whether there are trials to be tried alone, and may be."""
        return bool(self._set_aside) and self._budget.may_start() and not self.stop_all()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing for Tune to save: a sweep goes on from its study, not from Tune's state."""
        return {}

    # Tune calls the following; what they take is Tune's own.

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Shows the trial; one that goes on after its worker died is shown already."""
        number = self._started = trial.config["number"]
        if self._alone and number in self._set_aside:
            del self._set_aside[number]
            self._show(f"trial {number} is tried alone")
        if number in self._views:
            return
        self._show_trial(TrialView(number, self._study.settings(number), started=time.time()))
        self._show(f"trial {number} started")

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Takes note of an epoch; whether the trial is to stop."""
        if "storage" in result:
            code, what = result["errno"], result["storage"]
            self._fatal = OSError(code, what) if code else StorageError(what)
        if "epoch" not in result:
            return False
        number, epoch = result["number"], result["epoch"]
        with self._noting_what_is_fatal():
            rows = self._new_epochs(number, result)
            for row in rows:
                self._study.report(number, row.epoch, getattr(row, self._search.primary_objective))
                view = self._views[number]
                self._show_trial(replace(view, epochs=(*view.epochs, row)))
            self._budget.note(result)
            if reason := self._reason_to_stop(number, rows, result):
                self._stops[number] = reason
        self._show(
            f"trial {number} epoch {epoch}/{result['epochs']}: "
            f"valid_loss {result['valid_loss']:.4f}, valid_accuracy {result['valid_accuracy']:.4f}"
        )
        return number in self._stops

    def stop_all(self) -> bool:
        """Whether all training has to end."""
        return self._budget.is_over() or self._fatal is not None

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends a trial that was stopped, or that said itself that it is done."""
        number, result = trial.config["number"], trial.last_result or {}
        if "storage" in result:
            pass  # it is left as it is, and goes on when there is room, or the storage is back
        elif "no memory" in result and not self._alone:
            self._set_aside[number] = result["no memory"]
            self._show(f"trial {number} is set aside, to be tried alone: {result['no memory']}")
        elif "no memory" in result:
            self._end(number, "FAIL", reason=f"out of memory, also alone: {result['no memory']}")
        elif "failure" in result:
            self._end(number, "FAIL", reason=result["failure"])
        elif number in self._stops:
            self._end(number, "PRUNED", reason=self._stops[number])
        else:
            self._end(number, "COMPLETE", values=[result[objective] for objective in self._search.objectives])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends a trial whose worker died once too often."""
        self._end(trial.config["number"], "FAIL", reason=_worker_error(trial))

    def note_killed(self, reason: str) -> None:
        """Ray killed workers: of the trial that was alone, or of several, which will each be tried alone."""
        waiting = self._study.open_trials
        if not waiting or (len(waiting) > 1 and not self._alone):
            return
        # The others wait; where a worker died before its trial began, that was the first in turn.
        number = self._started if self._started in waiting else waiting[0]
        self._killed[number] += 1
        if self._killed[number] > self._search.retries:
            self._end(number, "FAIL", reason=reason)

    def close(self) -> None:
        """Ends what Tune dropped without a word when time was over.

        Raises:
            OSError: if the storage is full or away; what was running then can be resumed.
            StorageInternalError: if the study's database does not answer; likewise.
        """
        if self._fatal is not None:
            self.interrupt()
            raise self._fatal
        for number in self._study.open_trials:
            memory = self._set_aside.get(number)
            reason = f"out of memory beside others, and no time to try it alone: {memory}"
            self._end(number, "PRUNED", reason=reason if memory else TimeBudget.REASON)

    def interrupt(self) -> None:
        """Shows what was running as killed; the study keeps it as running, to be resumed."""
        for view in self._views.values():
            self._tracker.show(replace(view, state="PRUNED", reason="interrupted", ended=time.time()))

    def _end(
        self, number: int, state: State, *, values: list[float] | None = None, reason: str | None = None
    ) -> None:
        with self._noting_what_is_fatal():
            self._study.tell(number, state, values, reason)
        if self._fatal is not None:
            return
        view = self._views.pop(number, None)
        with self._noting_what_is_fatal():
            if state in self._last and (last := self._last_epoch(number, view)):
                self._last[state][number] = last
            self._forget_networks(number)
        if view:
            self._tracker.show(replace(view, state=state, reason=reason, ended=time.time()))
        self.progress = _progress(self._study, self._search, self._budget)
        self._show(f"trial {number} {state}" + (f": {reason}" if reason else ""))

    def _last_epoch(self, number: int, view: TrialView | None) -> Epoch | None:
        """What a trial came to; one that time did not allow to go on was at work in an earlier process."""
        if view and view.epochs:
            return view.epochs[-1]
        record = checkpoint.load_record(self._files, number)
        return record.last if record else None

    @contextmanager
    def _noting_what_is_fatal(self) -> Iterator[None]:
        """Tune would take the error for a trial's; it is the sweep's, which then ends to be resumed."""
        try:
            yield
        except StorageInternalError as error:
            self._fatal = error
        except OSError as error:
            if not is_storage_failure(error):
                raise
            self._fatal = error

    def _forget_networks(self, ended: int) -> None:
        """Keeps the networks of the best trials alone, complete or stopped, that an ensemble could take."""
        checkpoint.forget_state(self._files, ended)
        self._with_network.add(ended)
        # While none is complete, stopped trials are all that an ensemble could be made of.
        last = self._last["COMPLETE"] or self._last["PRUNED"]
        by_loss = sorted(last, key=lambda number: (last[number].valid_loss, number))
        by_accuracy = sorted(last, key=lambda number: (-last[number].valid_accuracy, number))
        kept = {*by_loss[: self._keep], *by_accuracy[: self._keep]}
        for number in self._with_network - kept:
            checkpoint.forget_network(self._files, number)
        self._with_network &= kept
        for each in self._last.values():  # what is not among the best now never will be
            for number in each.keys() - kept:
                del each[number]

    def _reason_to_stop(self, number: int, rows: list[Epoch], result: dict[str, Any]) -> str | None:
        if result["epoch"] == result["epochs"]:
            return None
        if self._budget.is_late(result):
            return TimeBudget.REASON
        for row in rows:
            if self._study.is_weak(number, row.epoch):
                return f"not among the best at epoch {row.epoch}"
        return None

    def _new_epochs(self, number: int, result: dict[str, Any]) -> list[Epoch]:
        """The epochs that were not noted yet: nearly always the result's own."""
        known, epoch = len(self._views[number].epochs), result["epoch"]
        if epoch <= known:
            return []
        if epoch == known + 1:
            return [Epoch(**{field.name: result[field.name] for field in fields(Epoch)})]
        # The process that went before, or a worker that died, left more than it told of.
        record = checkpoint.load_record(self._files, number)
        assert record, "a worker writes the record before it tells of an epoch"
        return list(record.epochs[known:epoch])

    def _show_trial(self, view: TrialView) -> None:
        self._views[view.number] = view
        self._tracker.show(view)

    def _show(self, event: str) -> None:
        self.progress = replace(self.progress, event=event, running=len(self._views))
        self._watch(self.progress)


def _worker_error(trial: Trial) -> str:
    """What Tune noted of the error; `Trial.get_error` would look where it is copied to later."""
    noted = Path(trial.error_file) if trial.error_file else None
    text = noted.read_text() if noted and noted.exists() else "its worker died"
    killed = (line for line in text.splitlines() if "killed due to" in line)  # by Ray; advice follows
    return next(killed, last_line(text))


def _progress(study: Study, search: SearchConfig, budget: TimeBudget) -> Progress:
    """The study's counts and best."""
    return Progress(
        search.trials,
        search.primary_objective,
        budget.end,
        complete=study.ended["COMPLETE"],
        pruned=study.ended["PRUNED"],
        failed=study.ended["FAIL"],
        best=study.best,
    )
