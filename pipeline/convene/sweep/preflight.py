"""What a sweep would take, said before anything runs: time, disk, GPUs, and what cannot be satisfied."""

import itertools
import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convene import datasets
from convene.cluster import connection, gpu_sharing, profiling
from convene.cluster.profiling import GpuMemory, StepProfile
from convene.config import search_space
from convene.config.schema import Configuration, flatten
from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.environment import DEFAULT_STORAGE
from convene.errors import InputError
from convene.records import open_sweep
from convene.search.sampler import ShapeCheck, every_configuration
from convene.search.study import Study
from convene.search.study_storage import StudyStorage
from convene.storage import Storage
from convene.sweep import disk
from convene.sweep.disk import DiskUsage
from convene.sweep.forecast import Forecast, forecast
from convene.tracking import tracker
from convene.training import shapes, size

_SAMPLES = 8  # configurations whose steps are timed, beside the largest
_COUNTED = 10_000  # configurations; more are as good as no end of them
_START_SECONDS = 5.0  # until Tune's workers train, once the cluster is there

# Configurations, each with what was seen of its steps or why it cannot be trained. The first is the largest.
Tried = list[tuple[Configuration, StepProfile | str]]


@dataclass(frozen=True)
class Preflight:
    """What is known of a sweep before it runs."""

    data: dict[str, Any]
    """Its name, images of each split, shape [channel, height, width] and number of classes."""
    searched: dict[str, Any]
    """What each searched parameter is drawn from, as the file says it."""
    configurations: int | None
    """How many fit the images; None where there are too many, or no end of them."""
    trials: int
    concurrency: int
    """Trials at a time."""
    seconds: Forecast | None
    """None where nothing could be trained."""
    largest: dict[str, Any]
    """Of the largest: `parameters`, and the `seconds` of its trial, None where it was not trained."""
    disk: DiskUsage
    gpu: dict[str, int] | None
    """Bytes: what the largest `trial` takes of a GPU and the `total`; and how many `trials` fit at a time."""
    problems: tuple[str, ...]
    """What stands in the way."""


def examine(
    file: str | Path,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Mapping[str, Any] | None = None,
    address: str | None = None,
) -> Preflight:
    """Looks at all that a sweep needs and times a few steps of it. Leaves nothing behind, but Optuna's
    tables in a database that OPTUNA_STORAGE names.

    Args: as for `run_sweep`.

    Raises:
        InputError: if what is asked is wrong in itself, as `run_sweep` does. What it merely does not get here
            is among the `problems`.
    """
    began = time.monotonic()
    space, store = search_space.read(Path(file), overrides), Storage(str(storage))
    with _leaving_no_folder(store):
        store.check_writable()
        tracker.place(store)
        StudyStorage(url=os.environ.get("OPTUNA_STORAGE")).check()
        dataset = datasets.load(space.base.data)
        shape_check = open_sweep.make_shape_check(space, dataset)
        open_sweep.known_trials(space, dataset, store)
        largest = size.largest(space, dataset.image_shape, len(dataset.classes))
        configurations = [largest, *_sample(space, shape_check)]
        seen = _see(space, dataset, configurations, store, address, began)
        room = disk.disk_usage(space, dataset, seen.most, store)
    seconds = _forecast(space, dataset, seen)
    problems = [*seen.problems, *_unsatisfied(space.base, dataset, seen.tried, seconds)]
    if not room.is_enough:
        problems.append(f"storage: {room}")
    return Preflight(
        _data(dataset),
        {name: searched.given for name, searched in space.searched.items()},
        _configurations(space, shape_check),
        space.base.search.trials,
        seen.concurrency,
        seconds,
        _largest(largest, dataset, seen.tried),
        room,
        _gpu(seen.memory),
        tuple(problems),
    )


@dataclass(frozen=True)
class _Seen:
    """What the cluster showed, as far as it came to that."""

    problems: list[str]
    concurrency: int
    most: int
    """Trials at a time, at most."""
    memory: GpuMemory | str | None = None
    start_seconds: float = 0.0
    """Until its workers train."""
    tried: Tried = field(default_factory=list)


def _see(
    space: SearchSpace,
    dataset: Dataset,
    configurations: list[Configuration],
    store: Storage,
    address: str | None,
    began: float,
) -> _Seen:
    search = space.base.search
    seen = _Seen([], search.concurrency or 1, search.concurrency or 1)
    with connection.connect(address) as cluster:
        with _noting(seen.problems):
            connection.check_storage(store)
        with _noting(seen.problems):
            resources, memory = gpu_sharing.allocate(cluster, space, dataset)
            with _noting(seen.problems):
                gpu_sharing.check_gpu_memory(search, resources, memory)
            start_seconds = time.monotonic() - began + _START_SECONDS
            steps = profiling.profile_steps(configurations, dataset.for_training, search, resources)
            tried = list(zip(configurations, steps, strict=True))
            at_a_time = resources.concurrency, resources.max_concurrency
            return _Seen(seen.problems, *at_a_time, memory, start_seconds, tried)
    return seen


@contextmanager
def _leaving_no_folder(store: Storage) -> Iterator[None]:
    """Removes the storage root again where there was none."""
    root = store.local() if store.is_local else None
    made = [folder for folder in (root, *root.parents) if not folder.exists()] if root else []
    try:
        yield
    finally:
        with suppress(OSError):  # it is not empty: somebody else uses it meanwhile
            for folder in made:
                folder.rmdir()


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """What the cluster lacks is one problem of several, and no reason to look no further."""
    try:
        yield
    except InputError as error:
        problems.append(str(error))


def _data(dataset: Dataset) -> dict[str, Any]:
    images = {"train": len(dataset.train), "valid": len(dataset.valid), "test": len(dataset.test)}
    return {
        "name": dataset.name,
        **images,
        "shape": list(dataset.image_shape),
        "classes": len(dataset.classes),
    }


def _sample(space: SearchSpace, shape_check: ShapeCheck) -> list[Configuration]:
    """Some different configurations that fit, drawn with the search's seed."""
    study = Study(search_space.override(space, {"search.sampler": "random"}), shape_check)
    drawn = [study.ask()[1] for _ in range(_SAMPLES)]
    return list({_without_seed(configuration): configuration for configuration in drawn}.values())


def _without_seed(configuration: Configuration) -> str:
    return json.dumps(flatten(configuration, "network", "training") | {"training.seed": None})


def _configurations(space: SearchSpace, shape_check: ShapeCheck) -> int | None:
    every = every_configuration(space, {}, random.Random(0))
    drawn = list(itertools.islice(every, _COUNTED + 1)) if every else []
    if not every or len(drawn) > _COUNTED:
        return None
    # Where a condition does not hold, several stand for the same configuration.
    distinct = {json.dumps(parameters): parameters for parameters in drawn}.values()
    return sum(shape_check(space.configuration(parameters, number=0)) is None for parameters in distinct)


def _forecast(space: SearchSpace, dataset: Dataset, seen: _Seen) -> Forecast | None:
    """By the sample alone: what is largest is no part of an average."""
    sample = [(each, steps.epoch_seconds) for each, steps in seen.tried[1:] if isinstance(steps, StepProfile)]
    if not sample:
        return None
    return forecast(
        space,
        sample,
        start_seconds=seen.start_seconds,
        concurrency=seen.concurrency,
        train=len(dataset.train),
        test=len(dataset.test),
    )


def _largest(configuration: Configuration, dataset: Dataset, tried: Tried) -> dict[str, Any]:
    count = shapes.parameter_count(configuration.network, dataset.image_shape, len(dataset.classes))
    seen = [steps.epoch_seconds for _, steps in tried[:1] if isinstance(steps, StepProfile)]
    return {"parameters": count, "seconds": seen[0] * configuration.training.epochs if seen else None}


def _gpu(memory: GpuMemory | str | None) -> dict[str, int] | None:
    if not isinstance(memory, GpuMemory):
        return None
    return {"trial": memory.trial_bytes, "total": memory.total_bytes, "trials": memory.max_trials}


def _unsatisfied(
    config: Configuration,
    dataset: Dataset,
    tried: Tried,
    seconds: Forecast | None,
) -> Iterator[str]:
    search = config.search
    for configuration, steps in tried:
        if isinstance(steps, str):
            count = shapes.parameter_count(configuration.network, dataset.image_shape, len(dataset.classes))
            yield f"network: one of {count:,} parameters cannot be trained: {steps}"
    if seconds and seconds.budget is not None and seconds.budget < seconds.least:
        yield (
            f"search.time_budget = {search.time_budget:g} s: leaves {seconds.budget:.0f} s to train, "
            f"but the quickest trial that was seen takes {seconds.least:.0f} s"
        )
    if config.ensemble.size > search.trials:
        yield f"ensemble.size = {config.ensemble.size}: larger than search.trials = {search.trials}"
