"""What a sweep would take, said before anything runs: time, disk, GPUs, and what cannot be satisfied."""

import itertools
import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import allotment, cluster, datasets, disk, geometry, probe, search_space, tracking
from pipeline.config import Configuration, flatten
from pipeline.datasets import Dataset
from pipeline.disk import Room
from pipeline.errors import InputError
from pipeline.forecast import Forecast, forecast
from pipeline.opening import DEFAULT_STORAGE, misfit_of
from pipeline.probe import GpuMemory, Steps
from pipeline.sampler import Misfit, every_configuration
from pipeline.search_space import SearchSpace
from pipeline.storage import Storage
from pipeline.study import Study

_SAMPLES = 8  # configurations whose steps are timed, beside the largest
_COUNTED = 10_000  # configurations; more are as good as no end of them
_START_SECONDS = 5.0  # until Tune's workers train, once the cluster is there

# Configurations, each with what was seen of its steps or why it cannot be trained. The first is the largest.
Tried = list[tuple[Configuration, Steps | str]]


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
    disk: Room
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
    """Looks at all that a sweep needs and times a few steps of it. Leaves nothing behind.

    Args: as for `run_sweep`.

    Raises:
        InputError: if what is asked is wrong in itself, as `run_sweep` does. What it merely does not get here
            is among the `problems`.
    """
    began = time.monotonic()
    space, store = search_space.read(Path(file), overrides), Storage(str(storage))
    store.check_writable()
    tracking.place(store)
    dataset, search = datasets.load(space.base.data), space.base.search
    misfit = misfit_of(space, dataset)
    largest = disk.largest(space, dataset.image_shape, len(dataset.classes))
    problems: list[str] = []
    tried: Tried = []
    memory: GpuMemory | str | None = None
    concurrency = most = search.concurrency or 1
    start_seconds = 0.0
    with cluster.connect(address):
        joined = cluster.chosen(address) != "local"
        with _noting(problems):
            cluster.check_storage(store)
        with _noting(problems):
            resources, memory = allotment.allot(space, dataset, joined=joined)
            with _noting(problems):
                allotment.check(search, resources, memory)
            concurrency, most = resources.concurrency, resources.most
            start_seconds = time.monotonic() - began + _START_SECONDS
            configurations = [largest, *_sample(space, misfit)]
            steps = probe.run(configurations, dataset.for_training, search, resources)
            tried = list(zip(configurations, steps, strict=True))
    room = disk.room(space, dataset, most, store)
    seconds = _forecast(space, dataset, tried, start_seconds, concurrency)
    gpu = _gpu(memory)
    problems += _unsatisfied(space.base, dataset, tried, seconds)
    if not room.is_enough:
        problems.append(f"storage: {room}")
    return Preflight(
        _data(dataset),
        {name: searched.given for name, searched in space.searched.items()},
        _configurations(space, misfit),
        search.trials,
        concurrency,
        seconds,
        _largest(largest, dataset, tried),
        room,
        gpu,
        tuple(problems),
    )


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


def _sample(space: SearchSpace, misfit: Misfit) -> list[Configuration]:
    """Some different configurations that fit, drawn with the search's seed."""
    study = Study(search_space.override(space, {"search.sampler": "random"}), misfit)
    drawn = [study.ask()[1] for _ in range(_SAMPLES)]
    return list({_without_seed(configuration): configuration for configuration in drawn}.values())


def _without_seed(configuration: Configuration) -> str:
    return json.dumps(flatten(configuration, "network", "training") | {"training.seed": None})


def _configurations(space: SearchSpace, misfit: Misfit) -> int | None:
    every = every_configuration(space, {}, random.Random(0))
    drawn = list(itertools.islice(every, _COUNTED + 1)) if every else []
    if not every or len(drawn) > _COUNTED:
        return None
    # Where a condition does not hold, several stand for the same configuration.
    distinct = {json.dumps(parameters): parameters for parameters in drawn}.values()
    return sum(misfit(space.configuration(parameters, number=0)) is None for parameters in distinct)


def _forecast(
    space: SearchSpace, dataset: Dataset, tried: Tried, start_seconds: float, concurrency: int
) -> Forecast | None:
    """By the sample alone: what is largest is no part of an average."""
    sample = [(each, steps.seconds) for each, steps in tried[1:] if isinstance(steps, Steps)]
    if not sample:
        return None
    return forecast(
        space,
        sample,
        start_seconds=start_seconds,
        concurrency=concurrency,
        train=len(dataset.train),
        test=len(dataset.test),
    )


def _largest(configuration: Configuration, dataset: Dataset, tried: Tried) -> dict[str, Any]:
    count = geometry.parameter_count(configuration.network, dataset.image_shape, len(dataset.classes))
    seen = [steps.seconds for _, steps in tried[:1] if isinstance(steps, Steps)]
    return {"parameters": count, "seconds": seen[0] * configuration.training.epochs if seen else None}


def _gpu(memory: GpuMemory | str | None) -> dict[str, int] | None:
    if not isinstance(memory, GpuMemory):
        return None
    return {"trial": memory.trial, "total": memory.total, "trials": memory.trials}


def _unsatisfied(
    config: Configuration,
    dataset: Dataset,
    tried: Tried,
    seconds: Forecast | None,
) -> Iterator[str]:
    search = config.search
    for configuration, steps in tried:
        if isinstance(steps, str):
            count = geometry.parameter_count(configuration.network, dataset.image_shape, len(dataset.classes))
            yield f"network: one of {count:,} parameters cannot be trained: {steps}"
    if seconds and seconds.budget is not None and seconds.budget < seconds.least:
        yield (
            f"search.time_budget = {search.time_budget:g} s: leaves {seconds.budget:.0f} s to train, "
            f"but the quickest trial that was seen takes {seconds.least:.0f} s"
        )
    if config.ensemble.size > search.trials:
        yield f"ensemble.size = {config.ensemble.size}: larger than search.trials = {search.trials}"
