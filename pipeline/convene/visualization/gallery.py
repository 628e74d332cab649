"""Pictures of a recorded sweep, written to files and logged to MLflow runs."""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convene.datasets import Dataset
from convene.errors import InputError
from convene.records.open_sweep import recorded_data
from convene.records.sweep_record import SweepRecord
from convene.storage import Storage
from convene.tracking import experiment, tracker
from convene.tracking.sweep_runs import SweepRuns
from convene.visualization import images, model_view, views
from convene.visualization.model_view import ModelView
from convene.visualization.views import KINDS, SINGLE_NETWORK_VIEWS, ViewOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_FOLDER = "pictures"  # in the sweep's folder and in the run's artifacts


@dataclass(frozen=True)
class SavedPictures:
    """Pictures that were written to files, and the numbers they show."""

    sweep: str
    kind: str
    source: str
    """`ensemble`, `trial 17` or `data`."""
    files: tuple[str, ...]
    logged: bool
    """True if the files were logged to an MLflow run."""
    numbers: dict[str, Any]


def save_pictures(
    name: str, kind: str, options: ViewOptions, *, storage: str | Path, to: Path | None = None
) -> SavedPictures:
    """Draw and save pictures of a recorded sweep, which may be unfinished.

    Args:
        name: the sweep's name.
        kind: `samples`, or one of `views.KINDS`.
        options: the trial, layer, images and so on to show.
        storage: the storage root.
        to: the folder for the files; by default `pictures` in the sweep's folder.

    Raises:
        InputError: if there is no such sweep, trial, layer, channel or image, with those that exist, or the
            folder is not writable.
    """
    record = SweepRecord.open(Storage(str(storage)), name)
    if options.ensemble and kind in SINGLE_NETWORK_VIEWS:
        raise InputError(f"--ensemble: {kind} shows a single network; choose one of the members with --trial")
    dataset = recorded_data(record)
    source, part, stem = "data", "sweep", ""
    if kind == "samples":
        view = views.samples(dataset, options)
    else:
        model = _select_model(record, dataset, kind, options)
        source, part, stem = model.name, model.part, f"{model.stem}-"
        view = KINDS[kind](model, options)
    folder = Storage(str(to)) if to else record.files / _FOLDER
    files = _write(folder, {f"{stem}{suffix}.png": figure for suffix, figure in view.figures.items()})
    logged = _log(record, dataset, part, folder, files) if files else False
    return SavedPictures(name, kind, source, tuple(map(folder.uri, files)), logged, view.numbers)


def _select_model(record: SweepRecord, dataset: Dataset, kind: str, options: ViewOptions) -> ModelView:
    """Return the requested trial or, by default, the ensemble; for views of one network, its best member."""
    if options.trial is not None:
        return model_view.load_trial(record, dataset, options.trial)
    if kind in SINGLE_NETWORK_VIEWS:
        return model_view.load_best_single(record, dataset)
    return model_view.load_ensemble(record, dataset)


def _write(folder: Storage, figures: dict[str, "Figure"]) -> list[str]:
    try:
        for name, figure in figures.items():
            folder.write(name, images.png(figure))
    except OSError as error:
        raise InputError(f"{folder.root}: cannot be written to: {error.strerror or error}") from None
    return list(figures)


def _log(record: SweepRecord, dataset: Dataset, part: str, folder: Storage, names: list[str]) -> bool:
    try:
        location = tracker.tracking_location(record.storage)
        runs = SweepRuns(location, record, record.space, dataset, fresh=False)
        with ExitStack() as stack:
            files = [stack.enter_context(folder.local_copy(name)) for name in names]
            return runs.log_files(part, files, _FOLDER)
    except Exception as error:  # MLflow errors must not discard the pictures
        logger.warning("The pictures were not logged to MLflow: %s", experiment.first_line(error))
        return False
