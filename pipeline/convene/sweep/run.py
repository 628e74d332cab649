"""A sweep from beginning to end: begun, resumed or enlarged. Prints nothing."""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError

from convene import datasets, environment
from convene.config import search_space
from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.environment import DEFAULT_STORAGE
from convene.errors import InputError, Interrupted, WorkError
from convene.records import sweep_record
from convene.records.open_sweep import OpenSweep, known_trials, make_shape_check, open_sweep, study_place
from convene.records.sweep_record import SweepMetadata, SweepRecord
from convene.redaction import redact_url
from convene.search.study import Study
from convene.search.time_budget import TimeBudget
from convene.storage import Storage, StorageError, is_storage_failure
from convene.sweep import completion, disk

if TYPE_CHECKING:
    from convene.cluster.capacity import Resources
    from convene.records.result import SweepResult
    from convene.search.study import KnownTrial
    from convene.sweep.progress import Progress
    from convene.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

Watch = Callable[["Progress"], None]
Announce = Callable[[str], None]


def run_sweep(
    space: SearchSpace | str | Path,
    *,
    name: str | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Mapping[str, Any] | None = None,
    address: str | None = None,
    watch: Watch = lambda progress: None,
    announce: Announce = lambda message: None,
) -> "SweepResult":
    """Search, track, choose, score once on the test set and export.

    Args:
        space: a search-space file, or a space that `search_space.build` made from tables.
        name: of the sweep; by default the file's, numbered if it is taken.
        storage: the folder or bucket that everything is written under.
        overrides: values by dotted name (`{"data.source": "mnist"}`) that replace the file's.
        address: of a running Ray cluster; by default `RAY_ADDRESS`, else a cluster on this machine.
        watch: called with the progress after each event.
        announce: called with each message before the first trial, and with the time budget's after the first
            epochs.

    Raises:
        InputError: if the request is wrong; nothing was written.
        WorkError: if no trial finished, or the export disagrees with the networks.
    """
    started = time.monotonic()
    if not isinstance(space, SearchSpace):
        stem, space = Path(space).stem, search_space.read(Path(space), overrides)
    else:
        stem, space = "sweep", search_space.override(space, overrides or {})
    store = Storage(str(storage))
    if name:
        sweep_record.check_free(store, name)
    store.check_writable()

    from convene.cluster import connection, gpu_sharing
    from convene.tracking import tracker
    from convene.tracking.sweep_runs import SweepRuns

    location = tracker.tracking_location(store)
    dataset = datasets.load(space.base.data)
    shape_check = make_shape_check(space, dataset)
    known = known_trials(space, dataset, store)
    budget = TimeBudget(started, space.base, test_images=len(dataset.test))
    with gpu_sharing.join_cluster(address, space, dataset, announce) as resources:
        connection.check_storage(store)
        usage = disk.disk_usage(space, dataset, resources.max_concurrency, store)
        announce(f"disk: {usage}")  # before anything is written
        if not usage.is_enough:
            logger.warning("storage: %s; when it is full the sweep stops, and can be resumed", usage)
        name = name or sweep_record.free_name(store, stem)
        # The absolute path, so that the sweep can be resumed from another folder.
        space = search_space.override(space, {"data.source": dataset.source})
        about = _metadata(name, dataset)
        study_storage, study_name = study_place(SweepRecord(store, name), about)
        study_storage.check()
        record = SweepRecord.create(store, name, space, about)
        with record.exclusive(), _resumable(record):
            study = Study(space, shape_check, study_storage, study_name)
            sweep = OpenSweep(record, space, dataset, study)
            _add_known_trials(sweep, known)
            runs = SweepRuns(location, record, space, dataset, fresh=True)
            search = _search(sweep, resources, budget, watch, announce)
            return completion.complete(sweep, tracker.Tracker(runs), started, search)


def resume_sweep(
    name: str,
    *,
    more: int = 0,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Mapping[str, Any] | None = None,
    address: str | None = None,
    watch: Watch = lambda progress: None,
    announce: Announce = lambda message: None,
) -> tuple["SweepResult", bool]:
    """Finish a sweep that was cut off: the same trials, numbers and runs, each from its last epoch.

    Args:
        name: of the sweep.
        more: trials beyond those first asked for; with some, a finished sweep continues too.
        storage: the storage root that it is under.
        overrides: values by dotted name for this time alone: `search.time_budget`, `search.concurrency`.
        address: as for `run_sweep`.
        watch: as for `run_sweep`.
        announce: as for `run_sweep`.

    Returns:
        The result, and whether anything was left to do: a finished sweep is left unchanged.

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

        budget = TimeBudget(started, sweep.space.base, test_images=len(sweep.dataset.test))
        known = [] if len(sweep.study) else known_trials(sweep.space, sweep.dataset, record.storage)
        with ExitStack() as stack:
            train = None
            if to_train:
                joining = gpu_sharing.join_cluster(address, sweep.space, sweep.dataset, announce)
                train = _search(sweep, stack.enter_context(joining), budget, watch, announce)
                connection.check_storage(record.storage)
            stack.enter_context(_resumable(record))

            def search(tracker: "Tracker") -> None:  # MLflow answers by now, so that the record may change
                if more:
                    _enlarge(sweep)
                _add_known_trials(sweep, known)  # a killed process may have added some of them
                if train:
                    train(tracker)

            return completion.complete(sweep, completion.tracker_of(sweep), started, search), True


def _search(
    sweep: OpenSweep, resources: "Resources", budget: TimeBudget, watch: Watch, announce: Announce
) -> completion.Search:
    from convene.sweep import tuner

    return lambda tracker: tuner.run(sweep, resources, tracker, budget=budget, watch=watch, announce=announce)


def _add_known_trials(sweep: OpenSweep, known: Sequence["KnownTrial"]) -> None:
    """Add the trials of `search.start_from` to the study, without those that it has already."""
    if known:
        sweep.study.add_known(str(sweep.space.base.search.start_from), known)


def _enlarge(sweep: OpenSweep) -> None:
    """Record that the search continues: in its study, its number of trials and its result so far."""
    record = sweep.record
    sweep.study.end_search(False)
    trials = sweep.space.base.search.trials
    record.write_space(search_space.override(record.space, {"search.trials": trials}))
    if result := record.result:
        record.write_result(replace(result, ended=False))


@contextmanager
def _resumable(record: SweepRecord) -> Iterator[None]:
    """Say how to resume after an interruption, or when the storage or the study's database was away."""
    resume = record.command("resume")
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        command = record.command("sync") if (result := record.result) and result.ended else resume
        raise Interrupted(f"interrupted; continue with: {command}") from None
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


def _metadata(name: str, dataset: Dataset) -> SweepMetadata:
    return SweepMetadata(
        name=name,
        id=uuid.uuid4().hex,
        created=environment.utc_now(),
        dataset=dataset.name,
        classes=len(dataset.classes),
        train=len(dataset.train),
        fingerprint=dataset.fingerprint,
        test_sha256=dataset.test.sha256,
        versions=environment.installed_versions(),
        study=redact_url(os.environ.get("OPTUNA_STORAGE", "")),
    )
