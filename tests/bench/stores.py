import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from convene.config.search_space import override
from convene.records.trials import TrialView
from convene.search.study import Study
from convene.search.study_storage import StudyStorage
from convene.search.trial_state import TrialState
from convene.storage import Storage
from convene.tracking.experiment import TrackingLocation
from convene.tracking.sweep_runs import SweepRuns
from convene.training.metrics import Epoch
from tests.bench import sleeper
from tests.support.synthetic import record_sweep

TRIALS, EPOCHS = 60, 4


def run() -> None:
    """A trial's study entries and MLflow writes: files, compared with servers on a local PostgreSQL."""
    from tests.support.servers import mlflow_server, postgres

    os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "CRITICAL"})
    with tempfile.TemporaryDirectory() as folder:
        _study("journal in a file", StudyStorage(Storage(f"{folder}/study.journal")))
        _tracking("SQLite", Path(folder, "a"), f"sqlite:///{folder}/mlflow.db", Path(folder).as_uri())
        with postgres() as database:
            _study("PostgreSQL", StudyStorage(url=database))
        with postgres() as database, mlflow_server(database, f"{folder}/artifacts", {}) as server:
            _tracking("MLflow's server on PostgreSQL", Path(folder, "b"), server, None)


def _study(name: str, storage: StudyStorage) -> None:
    space = override(sleeper.space(TRIALS, 1, EPOCHS, 1.0), {"search.sampler": "random"})
    study = Study(space, lambda configuration: None, storage)

    def trial(number: int) -> None:
        number, _configuration = study.ask()
        for epoch in range(1, EPOCHS + 1):
            study.report(number, epoch, 1.0)
            study.should_prune(number, epoch)
        study.tell(number, TrialState.COMPLETE, [1.0])

    print(f"the study in {name}: {_mean(trial)} per trial of {EPOCHS} epochs")


def _tracking(name: str, folder: Path, uri: str, artifacts: str | None) -> None:
    sweep = record_sweep(folder, 1)
    location = TrackingLocation(uri, artifacts)
    runs = SweepRuns(location, sweep.record, sweep.space, sweep.dataset, fresh=True)
    runs.log_sweep()
    settings = sweep.space.settings({}, 0)
    rows = tuple(Epoch(epoch, 1.0, 1.0, 0.5, 1e4) for epoch in range(1, EPOCHS + 1))

    def step_by_step(number: int) -> None:
        for epochs in range(EPOCHS + 1):
            runs.log_trial(TrialView(number, settings, time.time(), epochs=rows[:epochs]))
        runs.log_trial(
            TrialView(number, settings, time.time(), time.time(), TrialState.COMPLETE, epochs=rows)
        )

    def at_once(number: int) -> None:
        number += TRIALS
        runs.log_trial(
            TrialView(number, settings, time.time(), time.time(), TrialState.COMPLETE, epochs=rows)
        )

    print(
        f"{name}: {_mean(step_by_step)} per trial of {EPOCHS} epochs, "
        f"{_mean(at_once)} if written in one request"
    )


def _mean(work: Callable[[int], None]) -> str:
    work(TRIALS - 1)  # the first call opens connections
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(TRIALS - 1):
        work(number)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return f"{1000 * wall / (TRIALS - 1):.0f} ms ({1000 * cpu / (TRIALS - 1):.0f} of CPU in this process)"
