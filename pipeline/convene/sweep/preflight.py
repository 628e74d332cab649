"""The preflight of a sweep: its time, disk and GPU memory, and every problem, before anything runs."""

import itertools
import json
import os
import random
import statistics
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
from convene.sweep.budget_room import Room
from convene.sweep.disk import DiskUsage
from convene.sweep.forecast import Forecast, forecast
from convene.tracking import tracker
from convene.training import shapes, size

_SAMPLES = 8  # configurations to time, beside the largest
_COUNTED = 10_000  # configurations; more are too many to count
_START_SECONDS = 5.0  # until Tune's workers train, once the cluster is connected

# Configurations, each with its measured steps or the reason why it cannot be trained. The first is the
# largest.
Tried = list[tuple[Configuration, StepProfile | str]]


@dataclass(frozen=True)
class DataSummary:
    """A data set in numbers."""

    name: str
    train: int
    """Training images."""
    valid: int
    """Validation images."""
    test: int
    """Test images."""
    shape: tuple[int, int, int]
    """[channel, height, width]."""
    classes: int


@dataclass(frozen=True)
class LargestTrial:
    """The trial of the space's largest network."""

    parameters: int
    seconds: float | None
    """Training time; None if it was not trained."""


@dataclass(frozen=True)
class GpuUsage:
    """The largest trial on a GPU."""

    trial: int
    """Bytes that it needs."""
    total: int
    """Bytes of the GPU."""
    trials: int
    """Trials of this size that fit at a time."""


@dataclass(frozen=True)
class Preflight:
    """The facts known about a sweep before it runs."""

    data: DataSummary
    searched: dict[str, Any]
    """The searched parameters, each as its table in the file."""
    configurations: int | None
    """Configurations that fit the images; None if they are infinite or too many to count."""
    trials: int
    concurrency: int
    """Trials at a time."""
    seconds: Forecast | None
    """None if nothing could be trained."""
    largest: LargestTrial
    disk: DiskUsage
    gpu: GpuUsage | None
    """None if no trial uses a GPU, or its memory could not be measured."""
    problems: tuple[str, ...]
    """Everything that would stop the sweep."""


def examine(
    file: str | Path,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Mapping[str, Any] | None = None,
    address: str | None = None,
) -> Preflight:
    """Check everything that a sweep needs, and time a few of its steps.

    Leaves nothing behind except Optuna's tables in a database that OPTUNA_STORAGE names.

    Args: as for `run_sweep`.

    Raises:
        InputError: if the request itself is wrong, as `run_sweep` does. What is only missing here is among
            the `problems`.
    """
    began = time.monotonic()
    space, store = search_space.read(Path(file), overrides), Storage(str(storage))
    with _without_leftovers(store):
        store.check_writable()
        tracker.tracking_location(store)
        StudyStorage(url=os.environ.get("OPTUNA_STORAGE")).check()
        dataset = datasets.load(space.base.data)
        shape_check = open_sweep.make_shape_check(space, dataset)
        open_sweep.known_trials(space, dataset, store)
        largest = size.largest_configuration(space, dataset.image_shape, len(dataset.classes))
        configurations = [largest, *_sample(space, shape_check)]
        seen = _ask_cluster(space, dataset, configurations, store, address, began)
        usage = disk.disk_usage(space, dataset, seen.most, store)
    seconds = _forecast(space, dataset, seen)
    problems = [*seen.problems, *_unsatisfied(space, dataset, seen, seconds)]
    if not usage.is_enough:
        problems.append(f"storage: {usage}")
    return Preflight(
        _data(dataset),
        {name: searched.spec for name, searched in space.searched.items()},
        _configurations(space, shape_check),
        space.base.search.trials,
        seen.concurrency,
        seconds,
        _largest(largest, dataset, seen.tried),
        usage,
        _gpu(seen.memory),
        tuple(problems),
    )


@dataclass(frozen=True)
class _ClusterFacts:
    """The facts that the cluster showed, as far as it could be asked."""

    problems: list[str]
    concurrency: int
    most: int
    """Trials at a time, at most."""
    memory: GpuMemory | str | None = None
    start_seconds: float = 0.0
    """Time until its workers train."""
    tried: Tried = field(default_factory=list)


def _ask_cluster(
    space: SearchSpace,
    dataset: Dataset,
    configurations: list[Configuration],
    store: Storage,
    address: str | None,
    began: float,
) -> _ClusterFacts:
    search = space.base.search
    seen = _ClusterFacts([], search.concurrency or 1, search.concurrency or 1)
    with connection.connect(address) as cluster:
        with _collecting_problem(seen.problems):
            connection.check_storage(store)
        with _collecting_problem(seen.problems):
            resources, memory = gpu_sharing.allocate(cluster, space, dataset)
            with _collecting_problem(seen.problems):
                gpu_sharing.check_gpu_memory(search, resources, memory)
            start_seconds = time.monotonic() - began + _START_SECONDS
            steps = profiling.profile_steps(configurations, dataset.training_data, search, resources)
            tried = list(zip(configurations, steps, strict=True))
            at_a_time = resources.concurrency, resources.max_concurrency
            return _ClusterFacts(seen.problems, *at_a_time, memory, start_seconds, tried)
    return seen


@contextmanager
def _without_leftovers(store: Storage) -> Iterator[None]:
    """Remove the storage root again if it did not exist."""
    root = store.local() if store.is_local else None
    made = [folder for folder in (root, *root.parents) if not folder.exists()] if root else []
    try:
        yield
    finally:
        with suppress(OSError):  # not empty: another process uses it by now
            for folder in made:
                folder.rmdir()


@contextmanager
def _collecting_problem(problems: list[str]) -> Iterator[None]:
    """Collect an error about the cluster as one of several problems, and continue."""
    try:
        yield
    except InputError as error:
        problems.append(str(error))


def _data(dataset: Dataset) -> DataSummary:
    splits = len(dataset.train), len(dataset.valid), len(dataset.test)
    return DataSummary(dataset.name, *splits, dataset.image_shape, len(dataset.classes))


def _sample(space: SearchSpace, shape_check: ShapeCheck) -> list[Configuration]:
    """Return some distinct configurations that fit, drawn with the search's seed."""
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
    # Where a condition does not hold, several combinations describe the same configuration.
    distinct = {json.dumps(parameters): parameters for parameters in drawn}.values()
    return sum(shape_check(space.configuration(parameters, number=0)) is None for parameters in distinct)


def _forecast(space: SearchSpace, dataset: Dataset, seen: _ClusterFacts) -> Forecast | None:
    """Return a forecast by the sample alone: the largest network would distort the average."""
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


def _largest(configuration: Configuration, dataset: Dataset, tried: Tried) -> LargestTrial:
    count = shapes.parameter_count(configuration.network, dataset.image_shape, len(dataset.classes))
    seen = [steps.epoch_seconds for _, steps in tried[:1] if isinstance(steps, StepProfile)]
    return LargestTrial(count, seen[0] * configuration.training.epochs if seen else None)


def _gpu(memory: GpuMemory | str | None) -> GpuUsage | None:
    return (
        GpuUsage(memory.trial_bytes, memory.total_bytes, memory.max_trials)
        if isinstance(memory, GpuMemory)
        else None
    )


def _unsatisfied(
    space: SearchSpace,
    dataset: Dataset,
    seen: _ClusterFacts,
    seconds: Forecast | None,
) -> Iterator[str]:
    search, ensemble = space.base.search, space.base.ensemble
    for configuration, steps in seen.tried:
        if isinstance(steps, str):
            count = shapes.parameter_count(configuration.network, dataset.image_shape, len(dataset.classes))
            yield f"network: one of {count:,} parameters cannot be trained: {steps}"
    if seconds and seconds.budget is not None and seconds.budget < seconds.least:
        yield (
            f"search.time_budget = {search.time_budget:g} s: leaves {seconds.budget:.0f} s to train, "
            f"but the fastest trial measured takes {seconds.least:.0f} s; "
            + _room(space, dataset, seen, seconds.trial, seconds.budget).proposals()
        )
    # A default is no request: an ensemble of fewer trials than that has them all to choose from.
    if "size" in space.tables.get("ensemble", {}) and ensemble.size > search.trials:
        yield f"ensemble.size = {ensemble.size}: larger than search.trials = {search.trials}"


def _room(
    space: SearchSpace, dataset: Dataset, seen: _ClusterFacts, trial_seconds: float, budget: float
) -> Room:
    epochs = statistics.fmean(configuration.training.epochs for configuration, _ in seen.tried)
    return Room(space, len(dataset.train), budget, seen.concurrency, trial_seconds / epochs, epochs)
