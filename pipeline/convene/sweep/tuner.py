"""The trials of a study, run by Ray Tune."""

import math
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any, final

from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from convene.cluster import capacity
from convene.cluster.capacity import Resources
from convene.config.schema import SearchConfig
from convene.records.open_sweep import OpenSweep
from convene.search.study import Study
from convene.search.time_budget import TimeBudget
from convene.sweep.budget_room import BudgetRoom
from convene.sweep.observer import Observer
from convene.sweep.progress import Progress
from convene.sweep.worker import TrialWorker
from convene.tracking.tracker import Tracker

# Tune's own loggers would write every result to three files for each trial; the record has it already.
_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the searcher limits the trials at a time
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


_GPU_DEVICE = "cuda"
_NODES_LAST = 1.0  # seconds until the cluster is asked for its nodes again


@final
class _StudySearcher(Searcher):
    """Suggests trials: first those that were cut off, then new ones while trials and time are left.

    The number at a time follows the cluster, since nodes join late or leave; Tune's own limit would be fixed.
    """

    def __init__(
        self, study: Study, search: SearchConfig, resources: Resources, budget: TimeBudget, *, alone: bool
    ) -> None:
        super().__init__()
        self._study, self._search, self._resources, self._budget = study, search, resources, budget
        self._alone = alone
        self._trials = 0 if alone else search.trials
        self._cut_off = study.reopen()
        self._live: set[str] = set()
        self._limit, self._limit_until = 1, 0.0

    def suggest(self, trial_id: str) -> Any:
        if not self._budget.may_start():
            return Searcher.FINISHED
        if not self._cut_off and len(self._study) >= self._trials:
            return Searcher.FINISHED
        if len(self._live) >= self._max_running():
            return None
        self._live.add(trial_id)
        number, configuration = self._cut_off.pop(0) if self._cut_off else self._study.ask()
        # The trial records the value that "auto" resolved to, and is run again with it.
        search = configuration.search.model_copy(update={"gpus_per_trial": self._resources.gpus_per_trial})
        configuration = configuration.model_copy(update={"search": search})
        return {"number": number, "configuration": configuration.model_dump_json()}

    def _max_running(self) -> int:
        if not self._alone and time.monotonic() > self._limit_until:
            gpus, nodes = self._resources.gpus_per_trial, capacity.alive_nodes()
            is_autoscaling = self._resources.is_autoscaling
            self._limit = capacity.concurrency(self._search, gpus, nodes, is_autoscaling=is_autoscaling)
            self._limit_until = time.monotonic() + _NODES_LAST
        return self._limit

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Make room for another trial; the observer records how this one ended."""
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a sweep is resumed from its study, not from Tune's state."""


def run(
    sweep: OpenSweep,
    resources: Resources,
    tracker: Tracker,
    *,
    budget: TimeBudget,
    watch: Callable[[Progress], None],
    announce: Callable[[str], None] = lambda message: None,
) -> None:
    """Run the trials of a sweep's study until all have ended or the time budget has.

    Trials that an earlier process left running continue first, from their last epoch. After Ray has killed
    workers, the running trials continue one by one, so that one that is too large fails alone. Trials that
    ran out of memory are tried alone after the others, with all memory and a whole GPU.
    """
    os.environ.update(_TUNE_ENVIRONMENT)
    search = sweep.space.base.search
    room = BudgetRoom(sweep, budget, resources.concurrency, announce)
    observer = Observer(sweep, tracker, budget, watch, room.note)
    alone = False
    try:
        while True:
            observer.retries.begin(alone=alone)
            searcher = _StudySearcher(sweep.study, search, resources, budget, alone=alone)
            try:
                _tune(sweep, searcher, observer, resources.gpus_per_trial, alone=alone)
            except RuntimeError as error:
                # Tune gives up if Ray itself ends a worker, to save memory or with its node.
                if not isinstance(error.__cause__, RayError):
                    raise
                observer.note_killed(str(error.__cause__).strip().splitlines()[0])  # advice follows
                alone = True
                continue
            if not alone and not observer.has_set_aside:
                break
            alone = not alone
    except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into SystemExit
        observer.interrupt()
        raise
    observer.close()
    sweep.study.end_search()


def _tune(sweep: OpenSweep, searcher: Searcher, observer: Observer, gpus: float, *, alone: bool) -> None:
    search, data = sweep.space.base.search, sweep.dataset.training_data
    device = _GPU_DEVICE if gpus else "cpu"
    threads = max(1, int(search.cpus_per_trial))
    worker = tune.with_resources(
        tune.with_parameters(
            TrialWorker, sweep=sweep.record.files, data=data, device=device, threads=threads
        ),
        {"cpu": search.cpus_per_trial, "gpu": math.ceil(gpus) if alone else gpus},
    )
    with tempfile.TemporaryDirectory(prefix="convene-tune-") as scratch:
        # Not tune.Tuner: it pickles searcher and callbacks for a restore, which the study makes superfluous.
        tune.run(
            worker,
            name="trials",
            storage_path=scratch,
            search_alg=searcher,
            num_samples=search.trials,
            max_failures=search.retries,
            reuse_actors=True,
            callbacks=[observer],
            stop=observer,
            raise_on_failed_trial=False,
            verbose=0,
        )
