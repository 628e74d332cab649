"""How many trials nodes hold, as Ray places them, and what a trial gets of a GPU. No cluster is started."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convene import datasets
from convene.cluster import capacity, gpu_sharing
from convene.cluster.capacity import Node
from convene.cluster.profiling import GpuMemory
from convene.config.schema import SearchConfig, validate
from convene.errors import InputError

GB = 10**9


def node(cpus: float, gpus: float = 0, name: str = "a", **others: Any) -> Node:
    return Node(name, name, cpus, gpus, **others)


def search(**keys: Any) -> SearchConfig:
    return validate({"search": keys}).search


@pytest.mark.parametrize(
    ("has", "needs", "held"),
    [
        ((4, 0), (1, 0), 4),
        ((4, 0), (1.5, 0), 2),
        ((4, 0), (8, 0), 0),
        ((1, 1), (2, 0.5), 0),
        ((8, 1), (1, 0.25), 4),
        ((3, 1), (1, 0.25), 3),
        ((8, 0), (1, 0.25), 0),
        ((8, 2), (1, 0.6), 2),  # a part of a GPU is of one of them: 2 GPUs are not 3 times 0.6
        ((8, 3), (1, 2), 1),
        ((99, 1), (1, 0.1667), 5),  # Ray counts ten-thousandths: six are 1.0002
        ((99, 1), (1, 0.1666), 6),
        ((99, 1), (1, 1 / 3), 3),
        ((99, 0), (0.1, 0), 990),  # where floats would make 989 of it
    ],
)
def test_what_a_node_holds(has: tuple[float, float], needs: tuple[float, float], held: int) -> None:
    assert node(*has).holds(*needs) == held


def test_a_cluster_holds_what_its_nodes_hold_and_not_what_their_sum_would() -> None:
    """A GPU beside one processor is of no use to a trial that takes two."""
    nodes = [node(1, 1, "poor"), node(8, 0, "blind"), node(3, 1, "good")]
    config = search(cpus_per_trial=2.0, gpus_per_trial=0.5)
    assert capacity.resources(config, 0.5, nodes).concurrency == 1
    with pytest.raises(InputError) as refused:
        capacity.resources(config, 0.5, [*nodes[:2], nodes[1]])
    assert str(refused.value).splitlines() == [
        "search: a trial needs 2 CPUs and 0.5 GPUs, but there are 17 CPUs and 1 GPUs, on no one node enough:",
        "  poor: 1 CPUs and 1 GPUs",
        "  blind: 8 CPUs and 0 GPUs (2 such nodes)",
    ]


@pytest.mark.parametrize(
    ("keys", "joined", "now", "most"),
    [
        ({}, False, 4, 4),
        ({"concurrency": 2}, False, 2, 2),
        ({"concurrency": 9}, False, 4, 4),
        ({"wait_for_nodes": "10m", "concurrency": 9}, False, 4, 4),  # no node joins what is this sweep's own
        ({}, True, 4, 32),
        ({"concurrency": 9}, True, 4, 9),
        ({"concurrency": 2}, True, 2, 2),
        ({"wait_for_nodes": "10m", "concurrency": 9}, True, 9, 9),
        ({"wait_for_nodes": "10m"}, True, 5, 32),
    ],
)
def test_trials_at_a_time_now_and_when_others_have_joined(
    keys: dict[str, Any], joined: bool, now: int, most: int
) -> None:
    config = search(**keys)
    found = capacity.resources(config, 0.0, [node(3), node(1)], joined=joined)
    assert (found.concurrency, found.most) == (now, most)
    left = capacity.at_a_time(config, 0.0, [], grows=found.grows)
    assert left == {True: config.concurrency or 1, False: 1}[found.grows]  # one that waits for a node


@pytest.mark.parametrize(
    ("keys", "nodes", "memory", "share"),
    [
        ({}, [node(8)], None, 0.0),
        ({}, [node(8, 1)], "no CUDA", 1.0),
        # 80 GB hold 7 of 10 GB, of which a twentieth is spared; the processors 8.
        ({}, [node(8, 1)], GpuMemory(10 * GB, 80 * GB), 0.1428),
        ({}, [node(4, 1)], GpuMemory(10 * GB, 80 * GB), 0.25),
        # Ray fills one GPU before it begins the next: 7 on the first would leave the other with one.
        ({}, [node(8, 2)], GpuMemory(10 * GB, 80 * GB), 0.25),
        ({}, [node(8, 1), node(2, 1)], GpuMemory(10 * GB, 80 * GB), 0.1428),
        ({"concurrency": 2}, [node(8, 2)], GpuMemory(10 * GB, 80 * GB), 1.0),
        ({"trials": 3}, [node(8, 2)], GpuMemory(10 * GB, 80 * GB), 0.5),
        ({"cpus_per_trial": 4.0}, [node(8, 1)], GpuMemory(10 * GB, 80 * GB), 0.5),
        ({}, [node(8, 1)], GpuMemory(79 * GB, 80 * GB), 1.0),
        # Processors alone are no part of it: trials with a GPU are not placed there.
        ({}, [node(4, 1), node(99)], GpuMemory(10 * GB, 80 * GB), 0.25),
    ],
)
def test_what_auto_is(
    keys: dict[str, Any], nodes: list[Node], memory: GpuMemory | str | None, share: float
) -> None:
    assert gpu_sharing.share(search(**keys), nodes, memory) == share


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_auto_never_puts_more_on_a_gpu_than_it_holds_nor_fewer_to_work(
    has: list[tuple[int, int]], trials: int, fit: int
) -> None:
    nodes, config = [node(*each) for each in has], search(trials=trials)
    memory = GpuMemory(GB, int(fit * GB / 0.95) + 1)
    share = gpu_sharing.share(config, nodes, memory)
    if not any(gpus for _, gpus in has):
        assert share == 0
        return
    assert capacity.on_a_gpu(share) <= memory.trials == fit
    possible = sum(min(cpus, gpus * fit) for cpus, gpus in has)
    assert min(trials, capacity.held(config, share, nodes)) == min(trials, possible)


@pytest.mark.parametrize(
    ("gpus", "memory", "cpus", "says"),
    [
        (0.25, GpuMemory(10 * GB, 24 * GB), 8, "puts 4 trials on a GPU, whose memory of 24 GB holds 2"),
        (0.1, GpuMemory(10 * GB, 24 * GB), 3, "puts 3 trials on a GPU, whose memory of 24 GB holds 2"),
        (0.1, GpuMemory(10 * GB, 24 * GB), 2, None),  # the processors allow no more
        (0.5, GpuMemory(10 * GB, 24 * GB), 8, None),
        (1.0, GpuMemory(23 * GB, 24 * GB), 8, None),
        (0.0, None, 8, None),
    ],
)
def test_a_part_of_a_gpu_that_does_not_hold_a_trial_is_refused(
    gpus: float, memory: GpuMemory | None, cpus: int, says: str | None
) -> None:
    config = search(gpus_per_trial=gpus)
    resources = capacity.resources(config, gpus, [node(cpus, 1)])
    if says is None:
        gpu_sharing.check(config, resources, memory)
        return
    expected = f"search.gpus_per_trial = {gpus:g}: {says} of the largest, 10 GB; "
    with pytest.raises(InputError, match=expected):
        gpu_sharing.check(config, resources, memory)


def test_where_a_gpu_could_not_be_tried_there_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    config = search(gpus_per_trial=0.25)
    gpu_sharing.check(config, capacity.resources(config, 0.25, [node(8, 1)]), "CUDA is broken")
    assert [record.getMessage() for record in caplog.records] == [
        "search.gpus_per_trial = 0.25: the largest trial was tried on a GPU: CUDA is broken"
    ]


def test_images_that_the_object_store_of_a_node_does_not_hold_are_refused() -> None:
    dataset = datasets.load(validate({}).data)
    size = (len(dataset.train) + len(dataset.valid)) * (64 + 8)  # pixels, and labels of 64 bits
    assert dataset.for_training.nbytes == size
    gpu_sharing.check_data(dataset, [node(1, object_store=size)])
    with pytest.raises(InputError) as refused:
        gpu_sharing.check_data(dataset, [node(1, object_store=size), node(1, name="b", object_store=50_000)])
    assert "digits: 104 kB of images" in str(refused.value)
    assert "node b (b) has 50 kB" in str(refused.value)
