"""What of a cluster each trial gets: its part of a GPU, by what the GPU's memory holds."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray

from convene.cluster import capacity, connection, profiling
from convene.cluster.capacity import UNITS, Node, Resources
from convene.cluster.profiling import GpuMemory
from convene.config.schema import SearchConfig
from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.errors import InputError
from convene.formatting import byte_size
from convene.training import size

logger = logging.getLogger(__name__)


@contextmanager
def join(
    address: str | None, space: SearchSpace, dataset: Dataset, say: Callable[[str], None]
) -> Iterator[Resources]:
    """`cluster.connect`, and what the cluster has for the space's trials; `say` is told what was found.

    Raises:
        InputError: if no cluster answers there, it is too small for one trial, a GPU does not hold as many of
            the largest trial as `search.gpus_per_trial` puts on it, or a node does not hold the data.
    """
    with connection.connect(address):
        joined = connection.chosen(address) != "local"
        resources, memory = allot(space, dataset, joined=joined, say=say)
        check(space.base.search, resources, memory)
        for line in _lines(space.base.search, resources, memory):
            say(line)
        yield resources


def allot(
    space: SearchSpace, dataset: Dataset, *, joined: bool, say: Callable[[str], None] = lambda event: None
) -> tuple[Resources, GpuMemory | str | None]:
    """What the cluster that was joined has for trials; where they use GPUs, what one takes of a GPU's memory.

    Instead of that, why it could not be measured.

    Raises:
        InputError: if the cluster is too small for one trial, or a node does not hold the data.
    """
    search = space.base.search
    asked = 0.0 if search.gpus_per_trial == "auto" else search.gpus_per_trial
    there = capacity.nodes()
    if joined and search.wait_for_nodes is not None and not capacity.held(search, asked, there):
        say(f"waits for a node, at most {search.wait_for_nodes:g} s")
        there = _awaited(search, asked)
    here = ray.get_runtime_context().get_node_id()
    check_data(
        dataset, [node for node in there if node.id == here or node.holds(search.cpus_per_trial, asked)]
    )
    memory = None
    if search.gpus_per_trial and (able := [each for each in there if each.holds(search.cpus_per_trial, 1.0)]):
        largest = size.largest(space, dataset.image_shape, len(dataset.classes))
        say("tries the largest network on a whole GPU, and waits until one is free")
        memory = profiling.gpu_memory(largest, dataset.for_training, search, able)
    gpus = share(search, there, memory) if search.gpus_per_trial == "auto" else search.gpus_per_trial
    return capacity.resources(search, gpus, there, joined=joined), memory


def share(search: SearchConfig, there: Sequence[Node], memory: GpuMemory | str | None) -> float:
    """What `gpus_per_trial = "auto"` is: 0 without GPUs, a whole one where its memory could not be measured.

    Else the largest part of a GPU with which as many trials run at a time as with any that its memory allows.
    The largest, because Ray fills one GPU before it begins the next: smaller parts than the processors have
    a use for would crowd the first GPUs and leave the last ones idle.
    """
    if not any(node.gpus for node in there):
        return 0.0
    if not isinstance(memory, GpuMemory):
        return 1.0
    # Rounded down: six of Ray's 0.1667 are more than one GPU.
    parts = [UNITS // count / UNITS for count in range(1, min(memory.trials, UNITS) + 1)]
    return max(parts, key=lambda part: (min(_wanted(search), capacity.held(search, part, there)), part))


def check(search: SearchConfig, resources: Resources, memory: GpuMemory | str | None) -> None:
    """Whether a GPU's memory holds the trials that are put on it.

    Raises:
        InputError: with what it holds. Where that could not be measured, there is a warning instead.
    """
    gpus = resources.gpus_per_trial
    if isinstance(memory, str):
        logger.warning("search.gpus_per_trial = %s: the largest trial was tried on a GPU: %s", gpus, memory)
    elif memory and 0 < gpus < 1 and memory.trials < (together := _together(search, resources)):
        raise InputError(
            f"search.gpus_per_trial = {gpus:g}: puts {together} trials on a GPU, whose memory of "
            f"{byte_size(memory.total)} holds {memory.trials} of the largest, "
            f'{byte_size(memory.trial)}; "auto" finds the number'
        )


def _together(search: SearchConfig, resources: Resources) -> int:
    """The most trials that come to be on one GPU: Ray fills it as far as the node's processors go."""
    gpus = resources.gpus_per_trial
    held = max(node.holds(search.cpus_per_trial, gpus) for node in resources.nodes)
    return min(_wanted(search), held, capacity.on_a_gpu(gpus))


def _wanted(search: SearchConfig) -> int:
    return min(search.trials, search.concurrency or search.trials)


def check_data(dataset: Dataset, nodes: Sequence[Node]) -> None:
    """Whether each node's object store holds the images, which all its workers share and none copies.

    Raises:
        InputError: naming the first node whose store is too small.
    """
    size = dataset.for_training.nbytes
    for node in nodes:
        if size > node.object_store:
            raise InputError(
                f"data.source = {dataset.name}: {byte_size(size)} of images to train with, but the "
                f"object store of node {node.name} ({node.id[:8]}) has {byte_size(node.object_store)}: "
                "a smaller data.image_size or data.train_limit, or ray start --object-store-memory"
            )


def _awaited(search: SearchConfig, gpus: float) -> tuple[Node, ...]:
    """The nodes that there are once there is one that holds a trial, or the time for that is over.

    A task that only waits is what tells the cluster which node is wanted; it ends with the driver.
    """
    scout = ray.remote(_nothing).options(num_cpus=search.cpus_per_trial, num_gpus=gpus).remote()
    ready, _ = ray.wait([scout], timeout=search.wait_for_nodes)
    if not ready:
        ray.cancel(scout)
    return capacity.nodes()


def _nothing() -> None:
    """What a node does to show that it is there."""


def _lines(search: SearchConfig, resources: Resources, memory: GpuMemory | str | None) -> Iterator[str]:
    gpus = resources.gpus_per_trial
    if isinstance(memory, GpuMemory):
        yield (
            f"gpus: {gpus:g} of one for each trial, {resources.concurrency} at a time: a GPU holds "
            f"{memory.trials} of the largest, {byte_size(memory.trial)} of {byte_size(memory.total)}"
        )
    there = sum(node.gpus for node in resources.nodes)
    if there and not gpus:
        yield f'gpus: {there:g} there, which no trial uses: search.gpus_per_trial = "auto" does'
