"""Ray Tune: runs the trials of a study, stops weak ones, keeps to the time, and clears away."""

import logging
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, final

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from pipeline import checkpoint
from pipeline.budget import TimeBudget
from pipeline.config import Configuration, SearchConfig
from pipeline.datasets import TrainingData
from pipeline.errors import InputError
from pipeline.metrics import Epoch
from pipeline.storage import Storage
from pipeline.study import State, Study
from pipeline.tracking import Tracker, TrialView
from pipeline.worker import TrialWorker

logger = logging.getLogger(__name__)

# Tune's own loggers write every result to three files a trial; ours is the record.
_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}

_ANSWER_WITHIN = 5  # seconds that a cluster has to take a connection


@dataclass(frozen=True)
class Progress:
    """A sweep at a moment."""

    trials: int
    """Trials asked for."""
    running: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    best: tuple[int, float] | None = None
    """Number and objective of the best complete trial."""
    event: str = ""
    """What happened last, in a line."""

    @property
    def done(self) -> int:
        """Trials that have ended, in whatever state."""
        return self.complete + self.pruned + self.failed


@dataclass(frozen=True)
class Resources:
    """What the cluster has, and how many trials it holds at a time."""

    cpus: float
    gpus: float
    concurrency: int


@final
class _StudySearcher(Searcher):
    """Hands out trials: first those that were cut off, then new ones while they and the time last."""

    def __init__(self, study: Study, search: SearchConfig, budget: TimeBudget) -> None:
        super().__init__(metric=search.objective, mode=_mode(search))
        self._study, self._trials, self._budget = study, search.trials, budget
        self._cut_off = study.reopen()

    def suggest(self, trial_id: str) -> Any:
        if not self._budget.may_start():
            return Searcher.FINISHED
        if self._cut_off:
            number, configuration = self._cut_off.pop(0)
        elif len(self._study) < self._trials:
            number, configuration = self._study.ask()
        else:
            return Searcher.FINISHED
        return {"number": number, "configuration": configuration.model_dump_json()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: `_Observer` sees more of how a trial ended, and tells the study."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a sweep goes on from its study, not from Tune's state."""


@final
class _Observer(tune.Callback, tune.Stopper):
    """Sees every result first, as Tune's stopper, and every end, as its callback.

    Tells the study, the tracker and whoever watches, and decides which trials stop.
    """

    def __init__(
        self,
        study: Study,
        tracker: Tracker,
        sweep: Storage,
        config: Configuration,
        budget: TimeBudget,
        watch: Callable[[Progress], None],
    ) -> None:
        self._study, self._tracker, self._sweep = study, tracker, sweep
        self._search, self._budget, self._watch = config.search, budget, watch
        self._keep = config.ensemble.keep
        self._forgotten: set[int] = set()
        self._views: dict[int, TrialView] = {}
        self._stops: dict[int, str] = {}
        self._full: int | None = None
        self.progress = _progress(study, config.search)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing for Tune to save: a sweep goes on from its study, not from Tune's state."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = trial.config["number"]
        if number in self._views:  # its worker died, and it goes on with another
            return
        configuration = Configuration.model_validate_json(trial.config["configuration"])
        self._show_trial(TrialView(number, configuration, started=time.time()))
        self._show(f"trial {number} started")

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Takes note of an epoch; whether the trial is to stop."""
        if "full" in result:
            self._full = result["full"]
        if "epoch" not in result:
            return False
        number, epoch = result["number"], result["epoch"]
        for row in self._new_epochs(number, result):
            self._study.report(number, row.epoch, getattr(row, self._search.objective))
            view = self._views[number]
            self._show_trial(replace(view, epochs=(*view.epochs, row)))
        if result["epoch"] < result["epochs"]:
            if self._budget.is_late(result):
                self._stops[number] = TimeBudget.REASON
            elif self._study.is_weak(number, epoch):
                self._stops[number] = f"not among the best at epoch {epoch}"
        else:
            self._budget.is_late(result)
        self._show(
            f"trial {number} epoch {epoch}/{result['epochs']}: "
            f"valid_loss {result['valid_loss']:.4f}, valid_accuracy {result['valid_accuracy']:.4f}"
        )
        return number in self._stops

    def stop_all(self) -> bool:
        return self._budget.is_over() or self._full is not None

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number, result = trial.config["number"], trial.last_result or {}
        if "full" in result:
            pass  # it is left as it is, and goes on when there is room
        elif "failure" in result:
            self._end(number, "FAIL", reason=result["failure"])
        elif number in self._stops:
            self._end(number, "PRUNED", reason=self._stops[number])
        else:
            self._end(number, "COMPLETE", value=result[self._search.objective])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial.config["number"], "FAIL", reason=_last_line(trial.get_error()))

    def close(self) -> None:
        """Ends what Tune dropped without a word when time was over.

        Raises:
            OSError: if a worker found the storage full; what was running then can be resumed.
        """
        if self._full is not None:
            self.interrupt()
            raise OSError(self._full, os.strerror(self._full))
        for number in self._study.open_trials:
            self._end(number, "PRUNED", reason=TimeBudget.REASON)

    def interrupt(self) -> None:
        """Shows what was running as killed; the study keeps it as running, to be resumed."""
        for view in self._views.values():
            self._tracker.show(replace(view, state="PRUNED", reason="interrupted", ended=time.time()))

    def _end(
        self, number: int, state: State, *, value: float | None = None, reason: str | None = None
    ) -> None:
        self._study.tell(number, state, value, reason)
        self._forget_networks()
        if view := self._views.pop(number, None):
            self._tracker.show(replace(view, state=state, reason=reason, ended=time.time()))
        self.progress = _progress(self._study, self._search)
        self._show(f"trial {number} {state}" + (f": {reason}" if reason else ""))

    def _forget_networks(self) -> None:
        """Keeps the networks of the best trials alone: those that an ensemble could still take."""
        ended = [trial for trial in self._study.trials() if trial.state != "RUNNING"]
        complete = [trial for trial in ended if trial.value is not None]
        if not complete:
            return  # a stopped trial is then all that an ensemble could be made of
        sign = 1 if _mode(self._search) == "min" else -1
        complete.sort(key=lambda trial: (sign * (trial.value or 0.0), trial.number))
        kept = {trial.number for trial in complete[: self._keep]}
        for trial in ended:
            if trial.number not in kept and trial.number not in self._forgotten:
                checkpoint.forget_network(self._sweep, trial.number)
                self._forgotten.add(trial.number)

    def _new_epochs(self, number: int, result: dict[str, Any]) -> list[Epoch]:
        """The epochs that were not noted yet: nearly always the result's own."""
        known, epoch = len(self._views[number].epochs), result["epoch"]
        if epoch <= known:
            return []
        if epoch == known + 1:
            return [Epoch(**{field.name: result[field.name] for field in fields(Epoch)})]
        # The process that went before, or a worker that died, left more than it told of.
        record = checkpoint.load_record(self._sweep, number)
        assert record, "a worker writes the record before it tells of an epoch"
        return list(record.epochs[known:epoch])

    def _show_trial(self, view: TrialView) -> None:
        self._views[view.number] = view
        self._tracker.show(view)

    def _show(self, event: str) -> None:
        self.progress = replace(self.progress, event=event, running=len(self._views))
        self._watch(self.progress)


def _progress(study: Study, search: SearchConfig) -> Progress:
    """The study's counts and best."""
    trials = study.trials()
    states = Counter(trial.state for trial in trials)
    complete = [(trial.value, trial.number) for trial in trials if trial.value is not None]
    best = (min if _mode(search) == "min" else max)(complete, default=None)
    return Progress(
        search.trials,
        complete=states["COMPLETE"],
        pruned=states["PRUNED"],
        failed=states["FAIL"],
        best=None if best is None else (best[1], best[0]),
    )


@contextmanager
def cluster(address: str | None, search: SearchConfig) -> Iterator[Resources]:
    """Joins the Ray cluster at `address` (or `RAY_ADDRESS`), or starts one on this machine, and leaves it.

    Raises:
        InputError: if no cluster answers there, or it is too small for one trial.
    """
    os.environ.update(_TUNE_ENVIRONMENT)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    try:
        ray.init(
            address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=_dashboard(address)
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers: {_last_line(error)}") from None
    try:
        yield _resources(search)
    finally:
        leave()


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes to reach a cluster that is not there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_WITHIN).close()
    except OSError as error:
        raise InputError(f"--address {address}: no Ray cluster answers: {error.strerror or error}") from None


def leave() -> None:
    """Leaves the cluster before the context ends; ends the one that was started for this sweep."""
    ray.shutdown()


def _dashboard(address: str) -> bool | None:
    """A cluster of our own needs none; a running one has what it has."""
    return False if address == "local" else None


def _resources(search: SearchConfig) -> Resources:
    has = ray.cluster_resources()
    cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    held = int(cpus / search.cpus_per_trial)
    if search.gpus_per_trial:
        held = min(held, int(gpus / search.gpus_per_trial))
    if not held:
        raise InputError(
            f"search: a trial needs {search.cpus_per_trial:g} CPUs and {search.gpus_per_trial:g} GPUs, "
            f"but there are {cpus:g} CPUs and {gpus:g} GPUs"
        )
    return Resources(cpus, gpus, min(search.concurrency or held, held))


def run(
    config: Configuration,
    resources: Resources,
    study: Study,
    data: TrainingData,
    sweep: Storage,
    tracker: Tracker,
    *,
    budget: TimeBudget,
    watch: Callable[[Progress], None],
) -> Progress:
    """Runs the study's trials to the end or the end of the budget; what they leave is under `sweep`.

    Trials that an earlier process left running go on first, from their last epoch.

    Returns:
        The counts at the end.
    """
    search = config.search
    observer = _Observer(study, tracker, sweep, config, budget, watch)
    device = "cuda" if search.gpus_per_trial else "cpu"
    worker = tune.with_resources(
        tune.with_parameters(TrialWorker, sweep=sweep, data=data, device=device),
        {"cpu": search.cpus_per_trial, "gpu": search.gpus_per_trial},
    )
    with tempfile.TemporaryDirectory(prefix="convene-tune-") as scratch:
        try:
            # Not tune.Tuner: it pickles searcher and callbacks for a restore that the study makes needless.
            tune.run(
                worker,
                name="trials",
                storage_path=scratch,
                search_alg=_StudySearcher(study, search, budget),
                num_samples=search.trials,
                max_concurrent_trials=resources.concurrency,
                max_failures=search.retries,
                reuse_actors=True,
                callbacks=[observer],
                stop=observer,
                raise_on_failed_trial=False,
                verbose=0,
            )
        except KeyboardInterrupt:
            observer.interrupt()
            raise
    observer.close()
    return observer.progress


def _mode(search: SearchConfig) -> str:
    return "min" if search.objective == "valid_loss" else "max"


def _last_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else repr(error)
