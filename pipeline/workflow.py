"""What people come for, from beginning to end: sweep, ensemble, export, list. Prints nothing."""

import errno
import importlib.metadata
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import datasets, geometry, record, search_space
from pipeline.budget import TimeBudget
from pipeline.config import Configuration
from pipeline.datasets import Dataset
from pipeline.errors import InputError, Interrupted, WorkError
from pipeline.record import About, SweepRecord
from pipeline.search_space import SearchSpace
from pipeline.storage import Storage
from pipeline.study import Study, any_admissible

if TYPE_CHECKING:
    from pipeline.cluster import Resources
    from pipeline.observer import Progress
    from pipeline.record import Outcome
    from pipeline.replay import ReplayedEpoch
    from pipeline.tracking import Tracker

DEFAULT_STORAGE = "mlruns"


def run_sweep(
    space: SearchSpace | str | Path,
    *,
    name: str | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Mapping[str, Any] | None = None,
    address: str | None = None,
    watch: Callable[["Progress"], None] = lambda progress: None,
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
        record.check_free(store, name)
    store.check_writable()

    from pipeline import cluster, tracking
    from pipeline.runs import SweepRuns

    where = tracking.place(store)
    dataset = datasets.load(config.data)
    misfit = _misfit(space, dataset)
    budget = TimeBudget(started, config, test_images=len(dataset.test))
    with cluster.join(address, config.search) as resources:
        name = name or record.free_name(store, stem)
        # A path is kept whole, for a resume from another folder.
        space = search_space.override(space, {"data.source": dataset.source})
        kept = SweepRecord.create(store, name, space, _about(name, dataset))
        with (
            kept.exclusive(),
            _resumable(kept),
            tracking.Tracker(SweepRuns(where, kept.about, dataset, config, fresh=True)) as tracker,
        ):
            study = Study(space, misfit, kept.journal, name)
            _search(kept, space, dataset, study, resources, tracker, budget, watch)
            outcome = _finish(kept, space, dataset, study, tracker, started)
    return _with_waiting(kept, outcome, tracker)


def resume_sweep(
    name: str,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    address: str | None = None,
    watch: Callable[["Progress"], None] = lambda progress: None,
) -> tuple["Outcome", bool]:
    """Finishes a sweep that was cut off: the same trials, numbers and runs, each from its last epoch.

    Args:
        name: of the sweep.
        storage: the storage root that it is under.
        address: as for `run_sweep`.
        watch: as for `run_sweep`.

    Returns:
        The outcome, and whether there was anything left to do: a finished sweep is left as it is.

    Raises:
        InputError: if there is no such sweep, or its data has changed.
        WorkError: as for `run_sweep`.
    """
    started = time.monotonic()
    kept, space, dataset, study = _open(name, storage)
    if (result := kept.result) and study.has_ended:
        return result, False

    from pipeline import cluster

    budget = TimeBudget(started, space.base, test_images=len(dataset.test))
    with ExitStack() as stack:
        stack.enter_context(kept.exclusive())
        resources = None
        if not study.has_ended:
            resources = stack.enter_context(cluster.join(address, space.base.search))
        stack.enter_context(_resumable(kept))
        tracker = stack.enter_context(_reopened_tracker(kept, space, dataset, study))
        if resources:
            _search(kept, space, dataset, study, resources, tracker, budget, watch)
        outcome = _finish(kept, space, dataset, study, tracker, started)
    return _with_waiting(kept, outcome, tracker), True


def sync_sweep(name: str, *, storage: str | Path = DEFAULT_STORAGE) -> int:
    """Writes to MLflow what it lacks of a sweep, and nothing twice.

    Returns:
        How many records it did not take.

    Raises:
        InputError: if there is no such sweep, its data has changed, or the server does not answer.
    """
    kept, space, dataset, study = _open(name, storage)

    from pipeline.final import scored

    with kept.exclusive(), _reopened_tracker(kept, space, dataset, study, ends=False) as tracker:
        if result := kept.result:
            tracker.show_result(scored(result), kept.export, [kept.trials_table, kept.space_file])
        else:
            tracker.end("KILLED")
    return tracker.waiting


def rebuild_ensemble(
    name: str,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    size: int | None = None,
    rank_by: str | None = None,
) -> "Outcome":
    """Redoes the final stage of a sweep from its stored logits, without training. Reads the test set again.

    Args:
        name: of the sweep.
        storage: the storage root that it is under.
        size: members, at most; as in the sweep's configuration by default.
        rank_by: `valid_loss` or `valid_accuracy`; likewise.

    Raises:
        InputError: if there is no such sweep, its data has changed, or an argument is not allowed.
        WorkError: if the sweep has no finished trial.
    """
    started = time.monotonic()
    changes = {"ensemble.size": size, "ensemble.rank_by": rank_by}
    kept, space, dataset, study = _open(name, storage, {k: v for k, v in changes.items() if v is not None})

    with kept.exclusive(), _reopened_tracker(kept, space, dataset, study, ends=False) as tracker:
        outcome = _finish(kept, space, dataset, study, tracker, started)
    return _with_waiting(kept, outcome, tracker)


@contextmanager
def _reopened_tracker(
    kept: SweepRecord, space: SearchSpace, dataset: Dataset, study: Study, *, ends: bool = True
) -> Iterator["Tracker"]:
    """A tracker of a recorded sweep, that brings MLflow up to date with the trials that have ended."""
    from pipeline import tracking
    from pipeline.final import views
    from pipeline.runs import SweepRuns

    where = tracking.place(kept.storage)
    runs = SweepRuns(where, kept.about, dataset, space.base, fresh=False)
    with tracking.Tracker(runs, ends=ends) as tracker:
        for view in views(kept, space, study):
            tracker.show(view)
        yield tracker


def _with_waiting(kept: SweepRecord, outcome: "Outcome", tracker: "Tracker") -> "Outcome":
    """The outcome, with what MLflow had not taken when the tracker closed."""
    mlflow = {**outcome.mlflow, "waiting": tracker.waiting, "run_id": tracker.parent}
    outcome = replace(outcome, mlflow=mlflow)
    kept.write_result(outcome)
    return outcome


def _open(
    name: str, storage: str | Path, changes: Mapping[str, Any] | None = None
) -> tuple[SweepRecord, SearchSpace, Dataset, Study]:
    """A recorded sweep with its space, its data, which must be the same, and its study."""
    kept = SweepRecord.open(Storage(str(storage)), name)
    space = search_space.override(kept.space, changes or {})
    dataset = datasets.load(space.base.data)
    if dataset.fingerprint != kept.about.fingerprint:
        raise InputError(
            f"data.source = {space.base.data.source}: not the images that sweep {name} was trained on "
            f"(fingerprint {dataset.fingerprint[:12]}, then {kept.about.fingerprint[:12]})"
        )
    return kept, space, dataset, Study(space, _misfit(space, dataset), kept.journal, name)


@contextmanager
def _resumable(kept: SweepRecord) -> Iterator[None]:
    """Says how to go on after an interruption, or when the storage was full."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        command = kept.command("sync" if kept.result else "resume")
        raise Interrupted(f"interrupted; go on with: {command}") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        command = kept.command("resume")
        raise WorkError(
            f"storage {kept.storage.root}: {error.strerror}; make room, then: {command}"
        ) from None


def _search(
    kept: SweepRecord,
    space: SearchSpace,
    dataset: Dataset,
    study: Study,
    resources: "Resources",
    tracker: "Tracker",
    budget: TimeBudget,
    watch: Callable[["Progress"], None],
) -> None:
    """Trains what is left of the study's trials, and leaves the cluster."""
    from pipeline import cluster, sweep

    data = dataset.for_training
    sweep.run(space.base, resources, study, data, kept.files, tracker, budget=budget, watch=watch)
    cluster.leave()  # the final stage can have the processors and the memory


def _finish(
    kept: SweepRecord, space: SearchSpace, dataset: Dataset, study: Study, tracker: "Tracker", started: float
) -> "Outcome":
    # Only now PyTorch: until here the driver needs none, and the workers start sooner.
    from pipeline.final import finish

    return finish(kept, dataset, study, space.base.ensemble, tracker, started)


def replay_trial(
    name: str, trial: int, *, storage: str | Path = DEFAULT_STORAGE
) -> tuple[Iterator["ReplayedEpoch"], dict[str, tuple[str, str]]]:
    """Runs a recorded trial again, outside Ray.

    Returns:
        Its epochs, as they come, beside the recorded ones; and the packages whose versions have changed
        since, with the version then and now.

    Raises:
        InputError: if there is no such sweep or trial, or the data has changed.
    """
    kept, _, dataset, _ = _open(name, storage)

    from pipeline.replay import replay

    then, now = kept.about.versions, _versions()
    changed = {package: (then[package], now[package]) for package in then if then[package] != now[package]}
    return replay(kept, dataset, trial), changed


def export_ensemble(name: str, to: str | Path, *, storage: str | Path = DEFAULT_STORAGE) -> Path:
    """Copies a sweep's exported ensemble to a new or empty folder, checking every file's hash.

    Raises:
        InputError: if there is no such sweep or export, or the folder is not empty.
    """
    from pipeline import export

    kept = SweepRecord.open(Storage(str(storage)), name)
    if not kept.export.is_dir():
        raise InputError(
            f"sweep {name}: has no exported ensemble yet; make it with: {kept.command('ensemble')}"
        )
    return export.copy(kept.export, Path(to))


def _misfit(space: SearchSpace, dataset: Dataset) -> Callable[[Configuration], str | None]:
    """Why a configuration's network does not fit the images, or None; raises InputError where none fits."""

    def misfit(configuration: Configuration) -> str | None:
        return geometry.misfit(configuration.network, dataset.image_shape)

    if reason := any_admissible(space, misfit, [f"network.{field}" for field in geometry.FIELDS]):
        height, width = dataset.image_shape[1:]
        raise InputError(f"network: nothing in this space fits images of {height}x{width}: {reason}")
    return misfit


def _about(name: str, dataset: Dataset) -> About:
    return About(
        name=name,
        id=uuid.uuid4().hex,
        created=record.now(),
        dataset=dataset.name,
        classes=len(dataset.classes),
        train=len(dataset.train),
        fingerprint=dataset.fingerprint,
        test_sha256=dataset.test.sha256,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    """Of Python and of the libraries that the result depends on."""
    packages = ("convene", "torch", "ray", "optuna", "mlflow", "numpy")
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages}
