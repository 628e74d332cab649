"""The trials that fit on nodes, as Ray places them, and each trial's share of a GPU. Starts no cluster."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convene import datasets
from convene.cluster import capacity, gpu_sharing
from convene.cluster.capacity import Node
from convene.cluster.profiling import GpuMemory
from convene.config.schema import SearchConfig
from convene.config.validation import validate
from convene.errors import InputError

GB = 10**9


def node(cpus: float, gpus: float = 0, name: str = "a", **others: Any) -> Node:
    return Node(name, name, cpus, gpus, **others)


def search(**keys: Any) -> SearchConfig:
    return validate({"search": keys}).search


@pytest.mark.parametrize(
    ("resources", "needs", "capacity"),
    [
        ((4, 0), (1, 0), 4),
        ((4, 0), (1.5, 0), 2),
        ((4, 0), (8, 0), 0),
        ((1, 1), (2, 0.5), 0),
        ((8, 1), (1, 0.25), 4),
        ((3, 1), (1, 0.25), 3),
        ((8, 0), (1, 0.25), 0),
        ((8, 2), (1, 0.6), 2),  # a trial uses one GPU: 2 GPUs are not 3 times 0.6
        ((8, 3), (1, 2), 1),
        ((99, 1), (1, 0.1667), 5),  # Ray counts ten-thousandths: six are 1.0002
        ((99, 1), (1, 0.1666), 6),
        ((99, 1), (1, 1 / 3), 3),
        ((99, 0), (0.1, 0), 990),  # not 989, as with floats
    ],
)
def test_the_trials_that_fit_on_a_node(
    resources: tuple[float, float], needs: tuple[float, float], capacity: int
) -> None:
    assert node(*resources).trial_capacity(*needs) == capacity


def test_capacity_is_counted_per_node_and_not_from_the_total() -> None:
    """A GPU beside one CPU is of no use to a trial that takes two CPUs."""
    nodes = [node(1, 1, "small"), node(8, 0, "no-gpu"), node(3, 1, "good")]
    config = search(cpus_per_trial=2.0, gpus_per_trial=0.5)
    assert capacity.resources(config, 0.5, nodes).concurrency == 1
    with pytest.raises(InputError) as raised:
        capacity.resources(config, 0.5, [*nodes[:2], nodes[1]])
    assert str(raised.value).splitlines() == [
        "search: a trial needs 2 CPUs and 0.5 GPUs, but the cluster has 17 CPUs and 1 GPUs, "
        "and no single node has enough:",
        "  small: 1 CPUs and 1 GPUs",
        "  no-gpu: 8 CPUs and 0 GPUs (2 nodes)",
    ]


@pytest.mark.parametrize(
    ("keys", "joined", "now", "later"),
    [
        ({}, False, 4, 4),
        ({"concurrency": 2}, False, 2, 2),
        ({"concurrency": 9}, False, 4, 4),
        ({"wait_for_nodes": "10m", "concurrency": 9}, False, 4, 4),  # no node joins a local cluster
        ({}, True, 4, 32),
        ({"concurrency": 9}, True, 4, 9),
        ({"concurrency": 2}, True, 2, 2),
        ({"wait_for_nodes": "10m", "concurrency": 9}, True, 9, 9),
        ({"wait_for_nodes": "10m"}, True, 5, 32),
    ],
)
def test_the_concurrency_now_and_after_more_nodes_have_joined(
    keys: dict[str, Any], joined: bool, now: int, later: int
) -> None:
    config = search(**keys)
    found = capacity.resources(config, 0.0, [node(3), node(1)], joined=joined)
    assert (found.concurrency, found.max_concurrency) == (now, later)
    without_nodes = capacity.concurrency(config, 0.0, [], is_autoscaling=found.is_autoscaling)
    # One trial may wait for a node.
    assert without_nodes == (config.concurrency or 1 if found.is_autoscaling else 1)


@pytest.mark.parametrize(
    ("keys", "nodes", "memory", "expected"),
    [
        ({}, [node(8)], None, 0.0),
        ({}, [node(8, 1)], "no CUDA", 1.0),
        # 80 GB, of which 5 % is reserved, hold 7 times 10 GB; the CPUs are enough for 8.
        ({}, [node(8, 1)], GpuMemory(10 * GB, 80 * GB), 0.1428),
        ({}, [node(4, 1)], GpuMemory(10 * GB, 80 * GB), 0.25),
        # Ray fills one GPU before it uses the next: 7 trials on the first would leave 1 for the other.
        ({}, [node(8, 2)], GpuMemory(10 * GB, 80 * GB), 0.25),
        ({}, [node(8, 1), node(2, 1)], GpuMemory(10 * GB, 80 * GB), 0.1428),
        ({"concurrency": 2}, [node(8, 2)], GpuMemory(10 * GB, 80 * GB), 1.0),
        ({"trials": 3}, [node(8, 2)], GpuMemory(10 * GB, 80 * GB), 0.5),
        ({"cpus_per_trial": 4.0}, [node(8, 1)], GpuMemory(10 * GB, 80 * GB), 0.5),
        ({}, [node(8, 1)], GpuMemory(79 * GB, 80 * GB), 1.0),
        # A node without GPUs does not count: Ray places no trial with a GPU there.
        ({}, [node(4, 1), node(99)], GpuMemory(10 * GB, 80 * GB), 0.25),
    ],
)
def test_the_value_of_auto(
    keys: dict[str, Any], nodes: list[Node], memory: GpuMemory | str | None, expected: float
) -> None:
    assert gpu_sharing.auto_gpus_per_trial(search(**keys), nodes, memory) == expected


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_auto_fits_in_gpu_memory_and_reaches_the_highest_concurrency(
    resources: list[tuple[int, int]], trials: int, per_gpu: int
) -> None:
    nodes, config = [node(*each) for each in resources], search(trials=trials)
    memory = GpuMemory(GB, int(per_gpu * GB / 0.95) + 1)
    fraction = gpu_sharing.auto_gpus_per_trial(config, nodes, memory)
    if not any(gpus for _, gpus in resources):
        assert fraction == 0
        return
    assert capacity.trials_per_gpu(fraction) <= memory.max_trials == per_gpu
    possible = sum(min(cpus, gpus * per_gpu) for cpus, gpus in resources)
    assert min(trials, capacity.trial_capacity(config, fraction, nodes)) == min(trials, possible)


@pytest.mark.parametrize(
    ("gpus", "memory", "cpus", "message"),
    [
        (0.25, GpuMemory(10 * GB, 24 * GB), 8, "puts 4 trials on a GPU, but its memory of 24 GB holds 2"),
        (0.1, GpuMemory(10 * GB, 24 * GB), 3, "puts 3 trials on a GPU, but its memory of 24 GB holds 2"),
        (0.1, GpuMemory(10 * GB, 24 * GB), 2, None),  # the CPUs allow no more
        (0.5, GpuMemory(10 * GB, 24 * GB), 8, None),
        (1.0, GpuMemory(23 * GB, 24 * GB), 8, None),
        (0.0, None, 8, None),
    ],
)
def test_a_fixed_fraction_is_rejected_if_that_many_trials_do_not_fit_in_gpu_memory(
    gpus: float, memory: GpuMemory | None, cpus: int, message: str | None
) -> None:
    config = search(gpus_per_trial=gpus)
    resources = capacity.resources(config, gpus, [node(cpus, 1)])
    if message is None:
        gpu_sharing.check_gpu_memory(config, resources, memory)
        return
    expected = f"search.gpus_per_trial = {gpus:g}: {message} of the largest trial, 10 GB each; "
    with pytest.raises(InputError, match=expected):
        gpu_sharing.check_gpu_memory(config, resources, memory)


def test_a_warning_if_gpu_memory_cannot_be_measured(caplog: pytest.LogCaptureFixture) -> None:
    config = search(gpus_per_trial=0.25)
    gpu_sharing.check_gpu_memory(config, capacity.resources(config, 0.25, [node(8, 1)]), "CUDA is broken")
    assert [record.getMessage() for record in caplog.records] == [
        "search.gpus_per_trial = 0.25: cannot measure the largest trial on a GPU: CUDA is broken"
    ]


def test_images_that_do_not_fit_in_an_object_store_are_rejected() -> None:
    dataset = datasets.load(validate({}).data)
    size = (len(dataset.train) + len(dataset.valid)) * (64 + 8)  # pixels, and 64-bit labels
    assert dataset.training_data.nbytes == size
    gpu_sharing.check_object_stores(dataset, [node(1, object_store=size)])
    with pytest.raises(InputError) as raised:
        gpu_sharing.check_object_stores(
            dataset, [node(1, object_store=size), node(1, name="b", object_store=50_000)]
        )
    assert "digits: 104 kB of training images" in str(raised.value)
    assert "node b (b), which has 50 kB" in str(raised.value)
