"""The share of a GPU that each trial gets, by measured GPU memory."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray

from convene.cluster import capacity, connection, profiling
from convene.cluster.capacity import UNITS_PER_RESOURCE, Node, Resources
from convene.cluster.connection import Cluster
from convene.cluster.profiling import GpuMemory
from convene.config.schema import SearchConfig
from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.errors import InputError
from convene.formatting import byte_size
from convene.training import size

logger = logging.getLogger(__name__)


@contextmanager
def join_cluster(
    address: str | None, space: SearchSpace, dataset: Dataset, report: Callable[[str], None]
) -> Iterator[Resources]:
    """Connect to a cluster as `connection.connect` does, and yield its resources for the space's trials.

    `report` is called with progress messages.

    Raises:
        InputError: if no cluster answers there, it is too small for one trial, the trials that share a GPU do
            not fit in its memory, or the images do not fit in a node's object store.
    """
    with connection.connect(address) as cluster:
        resources, memory = allocate(cluster, space, dataset, report)
        check_gpu_memory(space.base.search, resources, memory)
        for message in _gpu_messages(resources, memory):
            report(message)
        yield resources


def allocate(
    cluster: Cluster,
    space: SearchSpace,
    dataset: Dataset,
    report: Callable[[str], None] = lambda message: None,
) -> tuple[Resources, GpuMemory | str | None]:
    """Return the cluster's resources for trials, and the measured GPU memory.

    The second value is None if trials use no GPU, and the reason if the memory could not be measured.

    Raises:
        InputError: if the cluster is too small for one trial, or the images do not fit in a node's object
            store.
    """
    search = space.base.search
    requested = 0.0 if search.gpus_per_trial == "auto" else search.gpus_per_trial
    nodes = capacity.alive_nodes()
    waits = not cluster.is_local and search.wait_for_nodes is not None
    if waits and not capacity.trial_capacity(search, requested, nodes):
        report(f"waiting for a node, at most {search.wait_for_nodes:g} s")
        nodes = _wait_for_node(search, requested)
    driver = ray.get_runtime_context().get_node_id()
    check_object_stores(
        dataset,
        [
            node
            for node in nodes
            if node.id == driver or node.trial_capacity(search.cpus_per_trial, requested)
        ],
    )
    memory = None
    with_gpu = [node for node in nodes if node.trial_capacity(search.cpus_per_trial, 1.0)]
    if search.gpus_per_trial and with_gpu:
        largest = size.largest_configuration(space, dataset.image_shape, len(dataset.classes))
        report("measuring the largest network on a whole GPU, as soon as one is free")
        memory = profiling.measure_gpu_memory(largest, dataset.training_data, search, with_gpu)
    if search.gpus_per_trial == "auto":
        gpus = auto_gpus_per_trial(search, nodes, memory)
    else:
        gpus = search.gpus_per_trial
    return capacity.resources(search, gpus, nodes, joined=not cluster.is_local), memory


def auto_gpus_per_trial(search: SearchConfig, nodes: Sequence[Node], memory: GpuMemory | str | None) -> float:
    """Return the value of `gpus_per_trial = "auto"`.

    It is 0 without GPUs, and 1 if GPU memory could not be measured. Otherwise, among the fractions of a GPU
    that fit in its memory, it is the largest one that reaches the highest concurrency. Ray fills one GPU
    before it uses the next, so a smaller fraction would crowd the first GPUs and leave the last ones idle.
    """
    if not any(node.gpus for node in nodes):
        return 0.0
    if not isinstance(memory, GpuMemory):
        return 1.0
    # Rounded down: six times Ray's 0.1667 is more than one GPU.
    counts = range(1, min(memory.max_trials, UNITS_PER_RESOURCE) + 1)
    fractions = [UNITS_PER_RESOURCE // count / UNITS_PER_RESOURCE for count in counts]

    def concurrency(fraction: float) -> int:
        return min(_requested_concurrency(search), capacity.trial_capacity(search, fraction, nodes))

    return max(fractions, key=lambda fraction: (concurrency(fraction), fraction))


def check_gpu_memory(search: SearchConfig, resources: Resources, memory: GpuMemory | str | None) -> None:
    """Check that the trials that share a GPU fit in its memory.

    Log a warning if the memory could not be measured.

    Raises:
        InputError: if they do not fit, with the number that does.
    """
    gpus = resources.gpus_per_trial
    if isinstance(memory, str):
        logger.warning(
            "search.gpus_per_trial = %s: cannot measure the largest trial on a GPU: %s", gpus, memory
        )
    elif memory and 0 < gpus < 1 and memory.max_trials < (trials := _trials_on_one_gpu(search, resources)):
        raise InputError(
            f"search.gpus_per_trial = {gpus:g}: puts {trials} trials on a GPU, but its memory of "
            f"{byte_size(memory.total_bytes)} holds {memory.max_trials} of the largest trial, "
            f'{byte_size(memory.trial_bytes)} each; "auto" finds a value that fits'
        )


def _trials_on_one_gpu(search: SearchConfig, resources: Resources) -> int:
    """Return the highest number of trials on one GPU. Ray fills it as far as the node's CPUs allow."""
    gpus = resources.gpus_per_trial
    on_one_node = max(node.trial_capacity(search.cpus_per_trial, gpus) for node in resources.nodes)
    return min(_requested_concurrency(search), on_one_node, capacity.trials_per_gpu(gpus))


def _requested_concurrency(search: SearchConfig) -> int:
    return min(search.trials, search.concurrency or search.trials)


def check_object_stores(dataset: Dataset, nodes: Sequence[Node]) -> None:
    """Check that the images fit in each node's object store, where all of its workers share one copy.

    Raises:
        InputError: if they do not fit, with the first such node.
    """
    size = dataset.training_data.nbytes
    for node in nodes:
        if size > node.object_store:
            raise InputError(
                f"data.source = {dataset.name}: {byte_size(size)} of training images do not fit in the "
                f"object store of node {node.name} ({node.id[:8]}), which has "
                f"{byte_size(node.object_store)}: reduce data.image_size or data.train_limit, or raise "
                "ray start --object-store-memory"
            )


def _wait_for_node(search: SearchConfig, gpus: float) -> tuple[Node, ...]:
    """Wait until a node can run a trial, or `search.wait_for_nodes` is over; return the nodes.

    A pending task makes the cluster start a fitting node. The task ends with the driver.
    """
    task = ray.remote(_no_op).options(num_cpus=search.cpus_per_trial, num_gpus=gpus).remote()
    ready, _ = ray.wait([task], timeout=search.wait_for_nodes)
    if not ready:
        ray.cancel(task)
    return capacity.alive_nodes()


def _no_op() -> None:
    """Do nothing; run to show that a node is ready."""


def _gpu_messages(resources: Resources, memory: GpuMemory | str | None) -> Iterator[str]:
    gpus = resources.gpus_per_trial
    if isinstance(memory, GpuMemory):
        yield (
            f"gpus: {gpus:g} per trial, {resources.concurrency} trials at a time; "
            f"a GPU of {byte_size(memory.total_bytes)} holds {memory.max_trials} of the largest trial, "
            f"{byte_size(memory.trial_bytes)} each"
        )
    available = sum(node.gpus for node in resources.nodes)
    if available and not gpus:
        yield f'gpus: {available:g} available, none used; search.gpus_per_trial = "auto" uses them'
