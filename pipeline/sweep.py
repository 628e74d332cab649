"""Ray Tune: runs the trials of a study, stops weak ones, keeps to the time, and clears away."""

import logging
import math
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipeline.budget import TimeBudget
from pipeline.config import Configuration, SearchConfig
from pipeline.datasets import TrainingData
from pipeline.errors import InputError
from pipeline.metrics import Epoch
from pipeline.storage import Storage
from pipeline.study import State, Study
from pipeline.tracking import Tracker
from pipeline.worker import TrialWorker

logger = logging.getLogger(__name__)

# Tune's own loggers write every result to three files a trial; ours is the record.
_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
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
    images_trained: int = 0
    """Training images seen, over all epochs of all trials."""
    best: tuple[int, float] | None = None
    """Number and objective of the best complete trial, else of the best so far."""
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
    """Hands the study's next trial to Tune, while there is one and time for it."""

    def __init__(self, study: Study, search: SearchConfig, budget: TimeBudget) -> None:
        super().__init__(metric=search.objective, mode=_mode(search))
        self._study, self._left, self._budget = study, search.trials, budget

    def suggest(self, trial_id: str) -> Any:
        if not self._left or not self._budget.may_start():
            return Searcher.FINISHED
        self._left -= 1
        number, configuration = self._study.ask()
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
class _Observer(tune.Callback):
    """Tells the study, the tracker and whoever watches what Tune does."""

    def __init__(
        self,
        study: Study,
        tracker: Tracker,
        search: SearchConfig,
        budget: TimeBudget,
        images_an_epoch: int,
        watch: Callable[[Progress], None],
    ) -> None:
        self._study, self._tracker, self._budget, self._watch = study, tracker, budget, watch
        self._objective, self._mode = search.objective, _mode(search)
        self._images_an_epoch = images_an_epoch
        self._running: set[int] = set()
        self.progress = Progress(search.trials)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = trial.config["number"]
        self._running.add(number)
        self._tracker.start_trial(number, Configuration.model_validate_json(trial.config["configuration"]))
        self._show(f"trial {number} started")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" not in result:
            return
        number = trial.config["number"]
        epoch = Epoch(**{name: result[name] for name in Epoch.__dataclass_fields__})
        self._study.report(number, epoch.epoch, result[self._objective])
        self._tracker.epoch(number, epoch)
        self._show(
            f"trial {number} epoch {epoch.epoch}/{result['epochs']}: "
            f"valid_loss {epoch.valid_loss:.4f}, valid_accuracy {epoch.valid_accuracy:.4f}",
            images_trained=self.progress.images_trained + self._images_an_epoch,
        )

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number, result = trial.config["number"], trial.last_result or {}
        if "failure" in result:
            self._end(number, "FAIL", reason=result["failure"])
        elif result.get("epoch") and result["epoch"] == result["epochs"]:
            self._end(number, "COMPLETE", value=result[self._objective])
        elif self._budget.stopped(trial.trial_id):
            self._end(number, "PRUNED", reason=TimeBudget.REASON)
        else:
            self._end(number, "PRUNED", reason=f"not among the best at epoch {result.get('epoch')}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial.config["number"], "FAIL", reason=_last_line(trial.get_error()))

    def close(self) -> None:
        """Ends what Tune dropped without a word when time was over."""
        for number in self._study.open_trials:
            self._end(number, "PRUNED", reason=TimeBudget.REASON)

    def _end(
        self, number: int, state: State, *, value: float | None = None, reason: str | None = None
    ) -> None:
        self._study.tell(number, state, value, reason)
        if number in self._running:
            self._running.discard(number)
            self._tracker.end_trial(number, state, reason)
        progress = self.progress
        self._show(
            f"trial {number} {state}" + (f": {reason}" if reason else ""),
            complete=progress.complete + (state == "COMPLETE"),
            pruned=progress.pruned + (state == "PRUNED"),
            failed=progress.failed + (state == "FAIL"),
            best=progress.best if value is None else self._better(number, value),
        )

    def _better(self, number: int, value: float) -> tuple[int, float]:
        best = self.progress.best
        if best is None or (value < best[1] if self._mode == "min" else value > best[1]):
            return number, value
        return best

    def _show(self, event: str, **changes: Any) -> None:
        self.progress = replace(self.progress, event=event, running=len(self._running), **changes)
        self._watch(self.progress)


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
    search: SearchConfig,
    resources: Resources,
    study: Study,
    data: TrainingData,
    sweep: Storage,
    tracker: Tracker,
    *,
    max_epochs: int,
    budget: TimeBudget,
    watch: Callable[[Progress], None],
) -> Progress:
    """Runs the study's trials to the end or the end of the budget; what they leave is under `sweep`.

    Returns:
        The counts at the end.
    """
    observer = _Observer(study, tracker, search, budget, len(data.train), watch)
    device = "cuda" if search.gpus_per_trial else "cpu"
    worker = tune.with_resources(
        tune.with_parameters(TrialWorker, sweep=sweep, data=data, device=device),
        {"cpu": search.cpus_per_trial, "gpu": search.gpus_per_trial},
    )
    with tempfile.TemporaryDirectory(prefix="convene-tune-") as scratch:
        # Not tune.Tuner: it pickles the searcher and callbacks for a restore that the study makes needless.
        tune.run(
            worker,
            name="trials",
            storage_path=scratch,
            metric=search.objective,
            mode=_mode(search),
            search_alg=_StudySearcher(study, search, budget),
            scheduler=_scheduler(search, max_epochs),
            num_samples=search.trials,
            max_concurrent_trials=resources.concurrency,
            reuse_actors=True,
            callbacks=[observer],
            stop=budget,
            raise_on_failed_trial=False,
            verbose=0,
        )
    observer.close()
    return observer.progress


def _mode(search: SearchConfig) -> str:
    return "min" if search.objective == "valid_loss" else "max"


def _scheduler(search: SearchConfig, max_epochs: int) -> TrialScheduler:
    grace_epochs = search.grace_epochs or math.ceil(max_epochs / 3)
    if search.scheduler == "none" or grace_epochs >= max_epochs:
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        max_t=max_epochs,
        grace_period=grace_epochs,
        reduction_factor=search.reduction_factor,
    )


def _last_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else repr(error)
