import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from convene.config.search_space import override
from convene.search.study import Study
from convene.search.study_storage import StudyStorage
from convene.search.trial_state import TrialState
from convene.storage import Storage
from convene.tracking.sweep_runs import SweepRuns, TrackingPlace, TrialView
from convene.training.metrics import Epoch
from tests.bench import sleeper
from tests.support.synthetic import record_sweep

TRIALS, EPOCHS = 60, 4


def run() -> None:
    """A trial's entries in the study and its writes to MLflow: files beside servers on a PostgreSQL here."""
    from tests.support.servers import mlflow_server, postgres

    os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "CRITICAL"})
    with tempfile.TemporaryDirectory() as folder:
        _study("journal in a file", StudyStorage(Storage(f"{folder}/study.journal")))
        _tracking("SQLite", Path(folder, "a"), f"sqlite:///{folder}/mlflow.db", Path(folder).as_uri())
        with postgres() as database:
            _study("PostgreSQL", StudyStorage(url=database))
        with postgres() as database, mlflow_server(database, f"{folder}/artifacts", {}) as server:
            _tracking("MLflow's server on PostgreSQL", Path(folder, "b"), server, None)


def _study(what: str, place: StudyStorage) -> None:
    space = override(sleeper.space(TRIALS, 1, EPOCHS, 1.0), {"search.sampler": "random"})
    study = Study(space, lambda configuration: None, place)

    def trial(number: int) -> None:
        number, _configuration = study.ask()
        for epoch in range(1, EPOCHS + 1):
            study.report(number, epoch, 1.0)
            study.should_prune(number, epoch)
        study.tell(number, TrialState.COMPLETE, [1.0])

    print(f"the study in {what}: {_each(trial)} a trial of {EPOCHS} epochs")


def _tracking(what: str, folder: Path, uri: str, artifacts: str | None) -> None:
    sweep = record_sweep(folder, 1)
    about, config = sweep.record.about, sweep.space.base
    runs = SweepRuns(TrackingPlace(uri, artifacts), about, sweep.dataset, config, fresh=True)
    runs.show_sweep()
    settings = sweep.space.settings({}, 0)
    rows = tuple(Epoch(epoch, 1.0, 1.0, 0.5, 1e4) for epoch in range(1, EPOCHS + 1))

    def step_by_step(number: int) -> None:
        for epochs in range(EPOCHS + 1):
            runs.show_trial(TrialView(number, settings, time.time(), epochs=rows[:epochs]))
        runs.show_trial(
            TrialView(number, settings, time.time(), time.time(), TrialState.COMPLETE, epochs=rows)
        )

    def at_once(number: int) -> None:
        number += TRIALS
        runs.show_trial(
            TrialView(number, settings, time.time(), time.time(), TrialState.COMPLETE, epochs=rows)
        )

    print(
        f"{what}: {_each(step_by_step)} a trial of {EPOCHS} epochs, {_each(at_once)} one that is written late"
    )


def _each(work: Callable[[int], None]) -> str:
    work(TRIALS - 1)  # the first opens connections
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(TRIALS - 1):
        work(number)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return f"{1000 * wall / (TRIALS - 1):.0f} ms ({1000 * cpu / (TRIALS - 1):.0f} of CPU here)"
