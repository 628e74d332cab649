"""The pictures of a recorded sweep, written to files and logged to MLflow's runs."""

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
from convene.visualization.model_view import Subject
from convene.visualization.views import KINDS, OF_ONE_NETWORK, ViewOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_FOLDER = "pictures"  # in the sweep's folder, and among a run's artifacts


@dataclass(frozen=True)
class Shown:
    """Pictures that were written, and the numbers in them."""

    name: str
    what: str
    of: str
    """`ensemble`, `trial 17` or `data`."""
    files: tuple[str, ...]
    logged: bool
    """Whether the files are among the artifacts of an MLflow run, too."""
    numbers: dict[str, Any]


def show(name: str, what: str, wish: ViewOptions, *, storage: str | Path, to: Path | None = None) -> Shown:
    """Draws pictures of a recorded sweep, also of one that is not finished.

    Args:
        name: of the sweep.
        what: `samples`, or one of `exhibits.KINDS`.
        wish: of which trial, layer, image …
        storage: the storage root that the sweep is under.
        to: the folder for the files; the sweep's `pictures` by default.

    Raises:
        InputError: if there is no such sweep, trial, layer, channel or image, saying which there are, or the
            folder cannot be written to.
    """
    record = SweepRecord.open(Storage(str(storage)), name)
    if wish.ensemble and what in OF_ONE_NETWORK:
        raise InputError(f"--ensemble: {what} are those of one network; name one of its members with --trial")
    dataset = recorded_data(record)
    of, part, stem = "data", "sweep", ""
    if what == "samples":
        exhibit = views.samples(dataset, wish)
    else:
        chosen = _chosen(record, dataset, what, wish)
        of, part, stem = chosen.name, chosen.part, f"{chosen.stem}-"
        exhibit = KINDS[what](chosen, wish)
    folder = Storage(str(to)) if to else record.files / _FOLDER
    files = _write(folder, {f"{stem}{end}.png": figure for end, figure in exhibit.figures.items()})
    logged = _log(record, dataset, part, folder, files) if files else False
    return Shown(name, what, of, tuple(map(folder.uri, files)), logged, exhibit.numbers)


def _chosen(record: SweepRecord, dataset: Dataset, what: str, wish: ViewOptions) -> Subject:
    """The ensemble where that makes sense, else the best single trial; or what is wished for."""
    if wish.trial is not None:
        return model_view.of_trial(record, dataset, wish.trial)
    if what in OF_ONE_NETWORK:
        return model_view.best_single(record, dataset)
    return model_view.of_ensemble(record, dataset)


def _write(folder: Storage, figures: dict[str, "Figure"]) -> list[str]:
    try:
        for name, figure in figures.items():
            folder.write(name, images.png(figure))
    except OSError as error:
        raise InputError(f"{folder.root}: cannot be written to: {error.strerror or error}") from None
    return list(figures)


def _log(record: SweepRecord, dataset: Dataset, part: str, folder: Storage, names: list[str]) -> bool:
    try:
        where = tracker.place(record.storage)
        runs = SweepRuns(where, record, record.space, dataset, fresh=False)
        with ExitStack() as stack:
            files = [stack.enter_context(folder.local_copy(name)) for name in names]
            return runs.add_files(part, files, _FOLDER)
    except Exception as error:  # the pictures are made, whatever a database or a server comes up with
        logger.warning("MLflow does not take the pictures: %s", experiment.first_line(error))
        return False
