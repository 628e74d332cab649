"""Commands on a recorded sweep: sync, ensemble, replay, report and export. Prints nothing."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from convene import environment
from convene.environment import DEFAULT_STORAGE
from convene.errors import InputError
from convene.records.open_sweep import open_sweep
from convene.records.sweep_record import EXPORT, SweepRecord
from convene.storage import Storage
from convene.sweep.completion import tracker_of

if TYPE_CHECKING:
    from convene.records.result import SweepResult
    from convene.sweep.replay import ReplayedEpoch


def sync_sweep(name: str, *, storage: str | Path = DEFAULT_STORAGE) -> int:
    """Write to MLflow what it lacks of a sweep, and nothing twice.

    Returns:
        The number of writes that are still pending.

    Raises:
        InputError: if there is no such sweep, its data has changed, or the server does not answer.
    """
    from convene.sweep.final_stage import show

    record = SweepRecord.open(Storage(str(storage)), name)
    with record.exclusive():
        sweep = open_sweep(name, storage)
        with tracker_of(sweep, ends=False) as tracker:
            if result := record.result:
                show(tracker, sweep, result)
            else:
                tracker.end("KILLED")
    return tracker.waiting


def rebuild_ensemble(
    name: str,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    size: int | None = None,
    rank_by: str | None = None,
) -> "SweepResult":
    """Repeat the final stage of a sweep from its stored logits, without training. Reads the test set again.

    Args:
        name: of the sweep.
        storage: the storage root that it is under.
        size: the largest number of members; by default the sweep's own.
        rank_by: `valid_loss` or `valid_accuracy`; by default the sweep's own.

    Raises:
        InputError: if there is no such sweep, its data has changed, or an argument is not allowed.
        WorkError: if the sweep has no finished trial.
    """
    started = time.monotonic()
    changes = {"ensemble.size": size, "ensemble.rank_by": rank_by}

    from convene.sweep.completion import complete

    with SweepRecord.open(Storage(str(storage)), name).exclusive():
        sweep = open_sweep(name, storage, {k: v for k, v in changes.items() if v is not None})
        return complete(sweep, tracker_of(sweep, ends=False), started)


def replay_trial(
    name: str, trial: int, *, storage: str | Path = DEFAULT_STORAGE
) -> tuple[Iterator["ReplayedEpoch"], dict[str, tuple[str, str]]]:
    """Run a recorded trial again, outside Ray.

    Returns:
        Its epochs as they are trained, beside the recorded ones; and the packages whose versions have
        changed, with the old and the new version.

    Raises:
        InputError: if there is no such sweep or trial, or the data has changed.
    """
    sweep = open_sweep(name, storage)

    from convene.sweep.replay import replay

    changed = environment.differences(sweep.record.about.versions, environment.installed_versions())
    return replay(sweep.record, sweep.dataset, trial), changed


def write_report(name: str, *, storage: str | Path = DEFAULT_STORAGE, to: str | Path | None = None) -> str:
    """Write a sweep's report; of a running sweep, the report so far.

    Args:
        name: of the sweep.
        storage: the storage root that it is under.
        to: the file; by default `report.html` in the sweep's folder.

    Returns:
        The report's address.

    Raises:
        InputError: if there is no such sweep, its data has changed, or the file cannot be written.
    """
    sweep = open_sweep(name, storage)
    file = Path(to).absolute() if to else None
    if file and (file.is_dir() or not file.parent.is_dir()):
        raise InputError(f"--to {to}: must be a file in an existing folder")

    from convene.visualization import report

    page = report.render(report.load_data(sweep))
    try:
        if file:
            Storage(str(file.parent)).write(file.name, page.encode())
        else:
            sweep.record.write_report(page)
    except OSError as error:
        where = file or sweep.record.report
        raise InputError(f"{where}: cannot be written: {error.strerror or error}") from None
    return str(file or sweep.record.report)


def export_ensemble(name: str, to: str | Path, *, storage: str | Path = DEFAULT_STORAGE) -> Path:
    """Copy a sweep's exported ensemble to a new or empty folder, and check every file's hash.

    Raises:
        InputError: if there is no such sweep or export, or the folder is not empty.
    """
    from convene.export import exporter

    record = SweepRecord.open(Storage(str(storage)), name)
    if not record.files.exists(EXPORT):
        raise InputError(
            f"sweep {name}: has no exported ensemble yet; make it with: {record.command('ensemble')}"
        )
    with record.files.local_copy(EXPORT) as folder:
        return exporter.copy(folder, Path(to))
