"""The trials that fit on a cluster's nodes, counted node by node, as Ray places them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convene.config.schema import SearchConfig
from convene.errors import InputError

UNITS_PER_RESOURCE = 10_000
"""Ray counts CPUs and GPUs in ten-thousandths."""


@dataclass(frozen=True)
class Node:
    """A node of a cluster with its total resources, in use or not."""

    id: str
    name: str
    cpus: float
    gpus: float
    object_store: int = 0
    """Bytes of memory for objects that the node's workers share."""
    gpu_type: str = ""
    """Ray's accelerator type, empty if unknown."""

    def trial_capacity(self, cpus: float, gpus: float) -> int:
        """Return how many trials fit at a time if each takes `cpus` and `gpus`.

        A fraction of a GPU is always a fraction of a single one.
        """
        by_cpus = _units(self.cpus) // _units(cpus)
        if not gpus:
            return by_cpus
        return min(by_cpus, int(self.gpus) * trials_per_gpu(gpus) if gpus < 1 else int(self.gpus // gpus))


@dataclass(frozen=True)
class Resources:
    """A cluster's resources for the trials of a sweep."""

    nodes: tuple[Node, ...]
    gpus_per_trial: float
    """The value of `search.gpus_per_trial`, with "auto" resolved."""
    concurrency: int
    """Trials at a time on the current nodes."""
    max_concurrency: int
    """Trials at a time after more nodes have joined."""
    is_autoscaling: bool = False
    """True if the cluster starts nodes on demand, as `search.wait_for_nodes` implies."""


def trials_per_gpu(fraction: float) -> int:
    """Return how many trials Ray places on one GPU if each takes this fraction of it."""
    return UNITS_PER_RESOURCE // _units(fraction)


def alive_nodes() -> tuple[Node, ...]:
    """Return the current nodes of the connected cluster."""
    import ray

    return tuple(_from_ray(node) for node in ray.nodes() if node["Alive"])


def _from_ray(node: Mapping[str, Any]) -> Node:
    resources, prefix = node["Resources"], "accelerator_type:"
    return Node(
        node["NodeID"],
        node["NodeManagerHostname"],
        resources.get("CPU", 0.0),
        resources.get("GPU", 0.0),
        int(resources.get("object_store_memory", 0)),
        next((name.removeprefix(prefix) for name in resources if name.startswith(prefix)), ""),
    )


def trial_capacity(search: SearchConfig, gpus: float, nodes: Sequence[Node]) -> int:
    """Return how many trials fit on the nodes at a time.

    This is the sum over the nodes. One large node with all of their resources might hold more.
    """
    return sum(node.trial_capacity(search.cpus_per_trial, gpus) for node in nodes)


def resources(search: SearchConfig, gpus: float, nodes: Sequence[Node], *, joined: bool = False) -> Resources:
    """Return the nodes' resources for trials that take `gpus` each.

    Args:
        search: the CPUs of a trial, and the requested concurrency.
        gpus: `search.gpus_per_trial`, with "auto" resolved.
        nodes: the current nodes.
        joined: whether the cluster was already running, so that more nodes can join it.

    Raises:
        InputError: if no node is large enough for a trial, with the resources of each.
    """
    if not trial_capacity(search, gpus, nodes):
        raise InputError(_insufficient_resources(search, gpus, nodes))
    is_autoscaling = joined and search.wait_for_nodes is not None
    now = concurrency(search, gpus, nodes, is_autoscaling=is_autoscaling)
    later = max(now, search.concurrency or search.trials) if joined else now
    return Resources(tuple(nodes), gpus, now, later, is_autoscaling)


def concurrency(search: SearchConfig, gpus: float, nodes: Sequence[Node], *, is_autoscaling: bool) -> int:
    """Return how many trials to create at a time on these nodes.

    A trial beyond the nodes' capacity would only wait, and would be sampled without the results that arrive
    meanwhile. But an autoscaling cluster starts a node only if a trial waits for it.
    """
    capacity = trial_capacity(search, gpus, nodes)
    if is_autoscaling:
        return search.concurrency or capacity + 1
    return max(1, min(search.concurrency or capacity, capacity))


def _insufficient_resources(search: SearchConfig, gpus: float, nodes: Sequence[Node]) -> str:
    cpus, total = search.cpus_per_trial, _describe_resources(nodes)
    message = f"search: a trial needs {cpus:g} CPUs and {gpus:g} GPUs, but the cluster has {total}"
    if len(nodes) > 1:  # a trial runs on one node, so the total is not enough to know
        counts = Counter((f"{node.name}: " + _describe_resources([node])) for node in nodes)
        message += ", and no single node has enough:" + "".join(
            f"\n  {node}" + (f" ({count} nodes)" if count > 1 else "") for node, count in counts.items()
        )
    return message


def _describe_resources(nodes: Sequence[Node]) -> str:
    return f"{sum(node.cpus for node in nodes):g} CPUs and {sum(node.gpus for node in nodes):g} GPUs"


def _units(amount: float) -> int:
    return max(1, round(amount * UNITS_PER_RESOURCE)) if amount else 0
