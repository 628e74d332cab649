"""A recorded sweep, opened: its space, its data, verified by fingerprint, and its study."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convene import datasets
from convene.config import search_space
from convene.config.schema import Configuration
from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.errors import InputError
from convene.records.sweep_record import JOURNAL, SweepMetadata, SweepRecord
from convene.redaction import redact_url
from convene.search import study
from convene.search.sampler import ShapeCheck, any_admissible
from convene.search.study import KnownTrial, Study, StudyTrial
from convene.search.study_storage import StudyStorage
from convene.storage import Storage
from convene.training import shapes


@dataclass(frozen=True)
class OpenSweep:
    """A sweep with its record, its data and its study."""

    record: SweepRecord
    space: SearchSpace
    dataset: Dataset
    study: Study


def open_sweep(
    name: str, storage: str | Path, changes: Mapping[str, Any] | None = None, *, more: int = 0
) -> OpenSweep:
    """Open a recorded sweep, with `changes` by dotted name over its space, and `more` trials to run.

    Raises:
        InputError: if there is no such sweep, or its data has changed.
    """
    record = SweepRecord.open(Storage(str(storage)), name)
    space = search_space.override(record.space, changes or {})
    if more:
        space = search_space.override(space, {"search.trials": space.base.search.trials + more})
    dataset = recorded_data(record)
    opened = Study(space, make_shape_check(space, dataset), *study_place(record, record.about))
    return OpenSweep(record, space, dataset, opened)


def recorded_data(record: SweepRecord) -> Dataset:
    """Return the images that a recorded sweep was trained on. Raise InputError if they have changed."""
    config = record.space.base.data
    dataset = datasets.load(config)
    if dataset.fingerprint != record.about.fingerprint:
        raise InputError(
            f"data.source = {config.source}: not the images that sweep {record.name} was trained on "
            f"(fingerprint {dataset.fingerprint[:12]}, then {record.about.fingerprint[:12]})"
        )
    return dataset


def recorded_trials(record: SweepRecord) -> list[StudyTrial]:
    """Return a recorded sweep's trials so far, also while another process runs it.

    Raises:
        InputError: if its study is in a database that cannot be reached.
    """
    return study.recorded_trials(*study_place(record, record.about))


def study_place(record: SweepRecord, about: SweepMetadata) -> tuple[StudyStorage, str]:
    """Return the storage of a sweep's study, and its name there.

    Raises:
        InputError: if it is in a database, and OPTUNA_STORAGE does not name that one.
    """
    if not about.study:
        return StudyStorage(journal=record.files / JOURNAL), record.name
    url = os.environ.get("OPTUNA_STORAGE", "")
    if redact_url(url) != about.study:
        raise InputError(f"sweep {record.name}: its study is in {about.study}; set OPTUNA_STORAGE to it")
    return StudyStorage(url=url), f"{record.name} {about.id[:8]}"


def known_trials(space: SearchSpace, dataset: Dataset, store: Storage) -> list[KnownTrial]:
    """Return the trials of the sweep `search.start_from` that lie in this space.

    Raises:
        InputError: if there is no such sweep, or none of its trials can be used.
    """
    name, search = space.base.search.start_from, space.base.search
    if not name:
        return []
    earlier = SweepRecord.open(store, name)
    if earlier.about.fingerprint != dataset.fingerprint:
        raise InputError(
            f"search.start_from = {name}: was trained on other images, so its scores mean nothing here"
        )
    then = earlier.space
    if then.base.search.objectives != search.objectives:
        objectives = list(then.base.search.objectives)
        raise InputError(f"search.start_from = {name}: its search.objectives were {objectives}")
    known = study.known_trials(*study_place(earlier, earlier.about), then, space)
    if not known:
        raise InputError(
            f"search.start_from = {name}: none of its trials lies in this space: "
            "fixed values must be the same, searched ones within their ranges"
        )
    return known


def make_shape_check(space: SearchSpace, dataset: Dataset) -> ShapeCheck:
    """Return the check of configurations against the images. Raise InputError if none fits."""

    def shape_check(configuration: Configuration) -> str | None:
        return shapes.shape_error(configuration.network, dataset.image_shape)

    fields = [f"network.{field}" for field in shapes.FIELDS]
    if reason := any_admissible(space, shape_check, fields):
        height, width = dataset.image_shape[1:]
        raise InputError(f"network: nothing in this space fits images of {height}x{width}: {reason}")
    for index, first in enumerate(space.try_first):
        if reason := any_admissible(space, shape_check, fields, first):
            raise InputError(f"search.try_first[{index}]: does not fit the images: {reason}")
    return shape_check
