"""What people come for, from beginning to end: sweep, ensemble, export, list. Prints nothing."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import checkpoint, datasets, geometry, record, search_space
from pipeline.config import Configuration, EnsembleConfig, flatten
from pipeline.datasets import Dataset
from pipeline.errors import InputError, WorkError
from pipeline.record import About, SweepRecord
from pipeline.search_space import SearchSpace
from pipeline.storage import Storage
from pipeline.study import StudiedTrial, Study, any_admissible, candidates

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.ensemble import ScoredEnsemble
    from pipeline.export import ModelCard
    from pipeline.sweep import Progress
    from pipeline.tracking import Tracker

DEFAULT_STORAGE = "mlruns"
_STATE_ORDER = {"COMPLETE": 0, "PRUNED": 1, "FAIL": 2, "RUNNING": 3}


@dataclass(frozen=True)
class Outcome:
    """What a sweep or a final stage came to; `--json` prints it."""

    name: str
    trials: int
    states: dict[str, int]
    """Trials that ended COMPLETE, PRUNED or FAIL."""
    wall_seconds: float
    """Of the command."""
    images_trained: int
    """Training images seen, over all epochs of all trials."""
    best_single: dict[str, Any]
    ensemble: dict[str, Any]
    test_reads: int
    """How often the test set was opened for this sweep."""
    mlflow: dict[str, Any]
    export: str
    """Folder of the exported ensemble."""
    storage: str
    """The storage root."""


def run_sweep(
    space: SearchSpace | str | Path,
    *,
    name: str | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Mapping[str, Any] | None = None,
    address: str | None = None,
    watch: Callable[["Progress"], None] = lambda progress: None,
) -> Outcome:
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

    from pipeline import sweep, tracking

    where = tracking.place(store)
    dataset = datasets.load(config.data)
    misfit = _misfit(space, dataset)
    with sweep.cluster(address, config.search) as resources:
        name = name or record.free_name(store, stem)
        kept = SweepRecord.create(store, name, space, _about(name, dataset))
        study = Study(space, misfit, kept.journal, name)
        with tracking.Tracker(where, name, dataset, config) as tracker:
            sweep.run(
                config.search,
                resources,
                study,
                dataset.for_training,
                kept.files,
                tracker,
                max_epochs=_most_epochs(space),
                budget=sweep.TimeBudget(started, config, test_images=len(dataset.test)),
                watch=watch,
            )
            return _finish(kept, dataset, study, config.ensemble, tracker, started)


def rebuild_ensemble(
    name: str,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    size: int | None = None,
    rank_by: str | None = None,
) -> Outcome:
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
    kept = SweepRecord.open(Storage(str(storage)), name)
    changes = {"ensemble.size": size, "ensemble.rank_by": rank_by}
    space = search_space.override(kept.space, {k: v for k, v in changes.items() if v is not None})

    from pipeline import tracking

    where = tracking.place(Storage(str(storage)))
    dataset = datasets.load(space.base.data)
    if dataset.fingerprint != kept.about.fingerprint:
        raise InputError(
            f"data.source = {space.base.data.source}: not the images that sweep {name} was trained on "
            f"(fingerprint {dataset.fingerprint[:12]}, then {kept.about.fingerprint[:12]})"
        )
    study = Study(space, _misfit(space, dataset), kept.journal, name)
    with tracking.Tracker(where, name, dataset, space.base, kept.runs) as tracker:
        return _finish(kept, dataset, study, space.base.ensemble, tracker, started)


def export_ensemble(name: str, to: str | Path, *, storage: str | Path = DEFAULT_STORAGE) -> Path:
    """Copies a sweep's exported ensemble to a new or empty folder, checking every file's hash.

    Raises:
        InputError: if there is no such sweep or export, or the folder is not empty.
    """
    from pipeline import export

    kept = SweepRecord.open(Storage(str(storage)), name)
    if not kept.export.is_dir():
        raise InputError(f"sweep {name}: has no exported ensemble yet; make it with: convene ensemble {name}")
    return export.copy(kept.export, Path(to))


@dataclass(frozen=True)
class ListedSweep:
    """A sweep in a list."""

    name: str
    state: str
    """`finished`, or `unfinished` where the final stage is still to come."""
    created: str
    dataset: str
    trials: int | None
    valid_accuracy: float | None
    test_accuracy: float | None
    test_reads: int


def list_sweeps(storage: str | Path = DEFAULT_STORAGE) -> list[ListedSweep]:
    """The sweeps under a storage root, newest first."""
    store = Storage(str(storage))
    listed = []
    for name in record.names(store):
        kept = SweepRecord(store, name)
        about, result = kept.about, kept.result
        ensemble = result["ensemble"] if result else {}
        listed.append(
            ListedSweep(
                name,
                "finished" if result else "unfinished",
                about.created,
                about.dataset,
                result["trials"] if result else None,
                ensemble.get("valid_accuracy"),
                ensemble.get("test_accuracy"),
                len(kept.test_reads),
            )
        )
    return sorted(listed, key=lambda sweep: sweep.created, reverse=True)


def leaderboard(outcome: Outcome) -> tuple["pd.DataFrame", list[str]]:
    """The rows of `trials.parquet`, best first, and the names of the columns that were searched."""
    import pandas as pd

    kept = SweepRecord.open(Storage(outcome.storage), outcome.name)
    return pd.read_parquet(kept.trials_table), list(kept.space.distributions)


def _finish(
    kept: SweepRecord,
    dataset: Dataset,
    study: Study,
    config: EnsembleConfig,
    tracker: "Tracker",
    started: float,
) -> Outcome:
    """The final stage: chooses on validation logits, opens the test set once, scores, exports, records."""
    from pipeline import ensemble, export

    trials = study.trials()
    selection = ensemble.choose(kept, _candidates(kept, trials), dataset.valid.labels, config)
    networks = ensemble.load_members(kept, dataset, selection)
    test = ensemble.open_test(kept, dataset, selection)
    scored = ensemble.score(kept, networks, selection, dataset.valid.labels, test)
    export.write(
        networks,
        classes=dataset.classes,
        pixels=test.pixels,
        card=_card(kept, dataset, scored),
        folder=kept.export,
    )
    tracker.log_ensemble(scored, kept.export)
    runs = tracker.drain()
    kept.write_runs(runs)
    table = trials_table(kept, trials, runs)
    kept.write_trials(table)
    outcome = Outcome(
        name=kept.name,
        trials=len(trials),
        states={
            state: sum(trial.state == state for trial in trials) for state in ("COMPLETE", "PRUNED", "FAIL")
        },
        wall_seconds=round(time.monotonic() - started, 3),
        images_trained=int(table["epochs"].sum()) * len(dataset.train),
        best_single=asdict(scored.best_single),
        ensemble={key: value for key, value in asdict(scored).items() if key != "best_single"},
        test_reads=len(kept.test_reads),
        mlflow={
            "tracking_uri": tracker.where.uri,
            "experiment": dataset.name,
            "run_id": runs.get("sweep"),
            "lost": tracker.lost,
        },
        export=str(kept.export),
        storage=kept.storage.root,
    )
    kept.write_result(asdict(outcome))
    tracker.end_sweep(scored, [kept.trials_table, kept.space_file])
    return outcome


def trials_table(kept: SweepRecord, trials: "list[StudiedTrial]", runs: Mapping[str, str]) -> "pd.DataFrame":
    """One row a trial, with its last epoch and configuration; best first by validation loss, FAIL last."""
    import pandas as pd

    rows = []
    for trial in trials:
        left = checkpoint.load_record(kept.files, trial.number)
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state,
                "reason": trial.reason,
                "epochs": len(left.epochs) if left else 0,
                "seconds": left.seconds if left else None,
                "parameter_count": left.parameter_count if left else None,
                **(left.last.metrics() if left else {}),
                **(flatten(left.configuration, "network", "training") if left else trial.parameters),
                "mlflow_run_id": runs.get(str(trial.number)),
            }
        )
    return pd.DataFrame(rows).sort_values(
        ["state", "valid_loss", "trial"], key=lambda column: column.replace(_STATE_ORDER), ignore_index=True
    )


def _candidates(kept: SweepRecord, trials: "list[StudiedTrial]") -> list[int]:
    """The complete trials; where time left none, the stopped ones that finished an epoch."""
    for state in ("COMPLETE", "PRUNED"):
        found = [
            t.number for t in trials if t.state == state and checkpoint.load_record(kept.files, t.number)
        ]
        if found:
            return found
    reasons = "".join(f"\n  trial {t.number}: {t.state} {t.reason or ''}" for t in trials)
    raise WorkError(f"sweep {kept.name}: no trial finished an epoch, so there is no ensemble{reasons}")


def _misfit(space: SearchSpace, dataset: Dataset) -> Callable[[Configuration], str | None]:
    """Why a configuration's network does not fit the images, or None; raises InputError where none fits."""

    def misfit(configuration: Configuration) -> str | None:
        return geometry.misfit(configuration.network, dataset.image_shape)

    if reason := any_admissible(space, misfit, [f"network.{field}" for field in geometry.FIELDS]):
        height, width = dataset.image_shape[1:]
        raise InputError(f"network: nothing in this space fits images of {height}x{width}: {reason}")
    return misfit


def _most_epochs(space: SearchSpace) -> int:
    searched = space.distributions.get("training.epochs")
    return max(candidates(searched)) if searched else space.base.training.epochs


def _about(name: str, dataset: Dataset) -> About:
    return About(
        name=name,
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


def _card(kept: SweepRecord, dataset: Dataset, scored: "ScoredEnsemble") -> "ModelCard":
    from pipeline.export import ModelCard

    return ModelCard(
        name=kept.name,
        dataset=dataset.name,
        source=dataset.source,
        fingerprint=dataset.fingerprint,
        test_sha256=dataset.test.sha256,
        test_reads=len(kept.test_reads),
        valid_accuracy=scored.valid_accuracy,
        test_accuracy=scored.test_accuracy,
        test_interval=scored.test_interval,
        best_single_test_accuracy=scored.best_single.test_accuracy,
        members=scored.members,
        versions=kept.about.versions,
    )
