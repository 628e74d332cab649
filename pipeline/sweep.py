"""Ray Tune: runs the trials of a study."""

import os
import tempfile
from collections.abc import Callable
from typing import Any, final

from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from pipeline.budget import TimeBudget
from pipeline.cluster import Resources
from pipeline.config import SearchConfig
from pipeline.observer import Observer, Progress
from pipeline.opening import OpenSweep
from pipeline.study import Study
from pipeline.tracking import Tracker
from pipeline.worker import TrialWorker

# Tune's own loggers write every result to three files a trial; ours is the record.
_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


@final
class _StudySearcher(Searcher):
    """Hands out trials: first those that were cut off, then new ones while they and the time last."""

    def __init__(self, study: Study, search: SearchConfig, budget: TimeBudget, *, new: bool) -> None:
        super().__init__()
        self._study, self._budget = study, budget
        self._trials = search.trials if new else 0
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
        """Nothing: the observer sees more of how a trial ended, and tells the study."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a sweep goes on from its study, not from Tune's state."""


def run(
    sweep: OpenSweep,
    resources: Resources,
    tracker: Tracker,
    *,
    budget: TimeBudget,
    watch: Callable[[Progress], None],
) -> None:
    """Runs the trials of a sweep's study to the end or the end of the budget; they are left in its folder.

    Trials that an earlier process left running go on first, from their last epoch. After Ray has killed
    workers, those that were running go on one by one, so that one that is too large dies alone.
    """
    os.environ.update(_TUNE_ENVIRONMENT)
    search = sweep.space.base.search
    observer = Observer(sweep, tracker, budget, watch)
    alone = False
    try:
        while True:
            searcher = _StudySearcher(sweep.study, search, budget, new=not alone)
            try:
                _tune(sweep, searcher, observer, 1 if alone else resources.concurrency)
            except RuntimeError as error:
                # Tune gives up where Ray itself ends a worker, to save memory or with its node.
                if not isinstance(error.__cause__, RayError):
                    raise
                observer.note_killed(str(error.__cause__).strip().splitlines()[0])  # the rest is advice
                alone = True
                continue
            if not alone:
                break
            alone = False
    except (KeyboardInterrupt, SystemExit):  # Ray makes a SystemExit of SIGTERM
        observer.interrupt()
        raise
    observer.close()
    sweep.study.end_search()


def _tune(sweep: OpenSweep, searcher: Searcher, observer: Observer, concurrency: int) -> None:
    search, data = sweep.space.base.search, sweep.dataset.for_training
    device = "cuda" if search.gpus_per_trial else "cpu"
    threads = max(1, int(search.cpus_per_trial))
    worker = tune.with_resources(
        tune.with_parameters(TrialWorker, sweep=sweep.kept.files, data=data, device=device, threads=threads),
        {"cpu": search.cpus_per_trial, "gpu": search.gpus_per_trial},
    )
    with tempfile.TemporaryDirectory(prefix="convene-tune-") as scratch:
        # Not tune.Tuner: it pickles searcher and callbacks for a restore that the study makes needless.
        tune.run(
            worker,
            name="trials",
            storage_path=scratch,
            search_alg=searcher,
            num_samples=search.trials,
            max_concurrent_trials=concurrency,
            max_failures=search.retries,
            reuse_actors=True,
            callbacks=[observer],
            stop=observer,
            raise_on_failed_trial=False,
            verbose=0,
        )
