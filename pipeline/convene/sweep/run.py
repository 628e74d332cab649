"""What people come for, from beginning to end: a sweep, begun, finished or enlarged. Prints nothing."""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError

from convene import datasets, environment
from convene.config import search_space
from convene.config.schema import Configuration
from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.errors import InputError, Interrupted, WorkError
from convene.records import sweep_record
from convene.records.open_sweep import (
    DEFAULT_STORAGE,
    OpenSweep,
    known_trials,
    misfit_of,
    open_sweep,
    study_place,
)
from convene.records.sweep_record import SweepMetadata, SweepRecord
from convene.redaction import redact_url
from convene.search.study import Study
from convene.search.time_budget import TimeBudget
from convene.storage import Storage, StorageError, is_storage_failure
from convene.sweep import disk

if TYPE_CHECKING:
    from convene.cluster.capacity import Resources
    from convene.records.sweep_record import Outcome
    from convene.sweep.observer import Progress
    from convene.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

Watch = Callable[["Progress"], None]


def run_sweep(
    space: SearchSpace | str | Path,
    *,
    name: str | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Mapping[str, Any] | None = None,
    address: str | None = None,
    watch: Watch = lambda progress: None,
) -> "Outcome":
    """Searches, tracks, selects, scores once on the test set and exports.

    Args:
        space: a search-space file, or what `search_space.build` makes of tables.
        name: of the sweep; the file's name, numbered where that is taken, by default.
        storage: the folder that everything is written under.
        overrides: values by dotted name (`{"data.source": "mnist"}`) that replace the file's.
        address: of a running Ray cluster; by default `RAY_ADDRESS`, else one on this machine.
        watch: called with the progress after each event.

    Raises:
        InputError: if what is asked is wrong; nothing was written.
        WorkError: if no trial was finished, or the export disagrees with the networks.
    """
    started = time.monotonic()
    if not isinstance(space, SearchSpace):
        stem, space = Path(space).stem, search_space.read(Path(space), overrides)
    else:
        stem, space = "sweep", search_space.override(space, overrides or {})
    config = space.base
    store = Storage(str(storage))
    if name:
        sweep_record.check_free(store, name)
    store.check_writable()

    from convene.cluster import connection, gpu_sharing
    from convene.tracking.sweep_runs import SweepRuns
    from convene.tracking.tracker import Tracker, place

    where = place(store)
    dataset = datasets.load(config.data)
    misfit = misfit_of(space, dataset)
    known = known_trials(space, dataset, store)
    budget = TimeBudget(started, config, test_images=len(dataset.test))
    say = _before_the_first(config, budget, watch)
    with gpu_sharing.join(address, space, dataset, say) as resources:
        connection.check_storage(store)
        room = disk.disk_usage(space, dataset, resources.most, store)
        say(f"disk: {room}")  # before the first trial, and before anything is written
        if not room.is_enough:
            logger.warning("storage: %s; when it is full the sweep stops, and can be resumed", room)
        name = name or sweep_record.free_name(store, stem)
        # A path is kept whole, for a resume from another folder.
        space = search_space.override(space, {"data.source": dataset.source})
        about = _about(name, dataset)
        kept_at, study_name = study_place(SweepRecord(store, name), about)
        kept_at.check()
        record = SweepRecord.create(store, name, space, about)
        with record.exclusive(), _resumable(record):
            study = Study(space, misfit, kept_at, study_name)
            if known:
                study.take(str(config.search.start_from), known)
            sweep = OpenSweep(record, space, dataset, study)
            with Tracker(SweepRuns(where, record, space, dataset, fresh=True)) as tracker:
                _search(sweep, resources, tracker, budget, watch)
                outcome = _finish(sweep, tracker, started)
            return _closed(sweep, outcome, tracker)


def resume_sweep(
    name: str,
    *,
    more: int = 0,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Mapping[str, Any] | None = None,
    address: str | None = None,
    watch: Watch = lambda progress: None,
) -> tuple["Outcome", bool]:
    """Finishes a sweep that was cut off: the same trials, numbers and runs, each from its last epoch.

    Args:
        name: of the sweep.
        more: trials beyond those that it was asked for; with some, a finished sweep goes on too.
        storage: the storage root that it is under.
        overrides: values by dotted name for this time alone: of `search.time_budget`, `search.concurrency`.
        address: as for `run_sweep`.
        watch: as for `run_sweep`.

    Returns:
        The outcome, and whether there was anything left to do: a finished sweep is left as it is.

    Raises:
        InputError: if there is no such sweep, its data has changed, or an argument is not allowed.
        WorkError: as for `run_sweep`.
    """
    started = time.monotonic()
    if more < 0:
        raise InputError(f"more = {more}: must be at least 0")
    record = SweepRecord.open(Storage(str(storage)), name)
    with record.exclusive():
        sweep = open_sweep(name, storage, overrides, more=more)
        to_train = more > 0 or not sweep.study.has_ended
        if (result := record.result) and result.ended and not to_train:
            return result, False

        from convene.cluster import connection, gpu_sharing
        from convene.sweep.recorded import tracker_of

        config = sweep.space.base
        budget = TimeBudget(started, config, test_images=len(sweep.dataset.test))
        say = _before_the_first(config, budget, watch)
        known = [] if len(sweep.study) else known_trials(sweep.space, sweep.dataset, record.storage)
        with ExitStack() as stack:
            resources = None
            if to_train:
                joining = gpu_sharing.join(address, sweep.space, sweep.dataset, say)
                resources = stack.enter_context(joining)
                connection.check_storage(record.storage)
            stack.enter_context(_resumable(record))
            tracker = stack.enter_context(tracker_of(sweep))  # which is refused where MLflow is not there
            if more:
                _enlarge(sweep)
            if known:  # a process that was killed may have taken some of them
                sweep.study.take(str(config.search.start_from), known)
            if resources:
                _search(sweep, resources, tracker, budget, watch)
            outcome = _finish(sweep, tracker, started)
        return _closed(sweep, outcome, tracker), True


def _before_the_first(config: Configuration, budget: TimeBudget, watch: Watch) -> Callable[[str], None]:
    """Tells who watches what happens before the first trial."""
    from convene.sweep.observer import Progress

    return lambda event: watch(
        Progress(config.search.trials, config.search.primary_objective, budget.end, event=event)
    )


def _enlarge(sweep: OpenSweep) -> None:
    """Records that the search goes on: its study, how many trials it has, and its result so far."""
    record = sweep.record
    sweep.study.end_search(False)
    record.write_space(search_space.override(record.space, {"search.trials": sweep.space.base.search.trials}))
    if result := record.result:
        record.write_result(replace(result, ended=False))


@contextmanager
def _resumable(record: SweepRecord) -> Iterator[None]:
    """Says how to go on after an interruption, or when the storage or the study's database was away."""
    resume = record.command("resume")
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        command = record.command("sync") if (result := record.result) and result.ended else resume
        raise Interrupted(f"interrupted; go on with: {command}") from None
    except StorageInternalError as error:
        raise WorkError(f"the study's database does not answer; then: {resume}\n  {error}") from None
    except OSError as error:
        if not is_storage_failure(error):
            raise
        if isinstance(error, StorageError):
            raise WorkError(f"storage {error}; when it is back: {resume}") from None
        raise WorkError(
            f"storage {record.storage.root}: {error.strerror}; make room, then: {resume}"
        ) from None


def _search(
    sweep: OpenSweep, resources: "Resources", tracker: "Tracker", budget: TimeBudget, watch: Watch
) -> None:
    """Trains what is left of the study's trials."""
    from convene.sweep.tuner import run

    run(sweep, resources, tracker, budget=budget, watch=watch)


def _finish(sweep: OpenSweep, tracker: "Tracker", started: float) -> "Outcome":
    # Only now PyTorch: until here the driver needs none, and the workers start sooner.
    from convene.sweep.final_stage import finish

    return finish(sweep, tracker, started)


def _closed(sweep: OpenSweep, outcome: "Outcome", tracker: "Tracker") -> "Outcome":
    from convene.sweep.final_stage import note_waiting

    return note_waiting(sweep, outcome, tracker)


def _about(name: str, dataset: Dataset) -> SweepMetadata:
    return SweepMetadata(
        name=name,
        id=uuid.uuid4().hex,
        created=sweep_record.now(),
        dataset=dataset.name,
        classes=len(dataset.classes),
        train=len(dataset.train),
        fingerprint=dataset.fingerprint,
        test_sha256=dataset.test.sha256,
        versions=environment.installed(),
        study=redact_url(os.environ.get("OPTUNA_STORAGE", "")),
    )
