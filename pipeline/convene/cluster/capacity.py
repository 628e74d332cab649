"""How many trials the nodes of a cluster hold: node by node, as Ray places them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convene.config.schema import SearchConfig
from convene.errors import InputError

UNITS = 10_000
"""Ray counts processors and GPUs in ten-thousandths."""


@dataclass(frozen=True)
class Node:
    """A node of a cluster and what it has in all, whoever uses it."""

    id: str
    name: str
    cpus: float
    gpus: float
    object_store: int = 0
    """Bytes of its memory that Ray shares among its workers."""
    gpu_kind: str = ""
    """As Ray calls it, or nothing where Ray does not know."""

    def holds(self, cpus: float, gpus: float) -> int:
        """Trials of so many CPUs and GPUs that fit it at a time; what is less than a GPU is a part of one."""
        held = _units(self.cpus) // _units(cpus)
        if gpus:
            held = min(held, int(self.gpus) * on_a_gpu(gpus) if gpus < 1 else int(self.gpus // gpus))
        return held


@dataclass(frozen=True)
class Resources:
    """What a cluster has for a sweep's trials."""

    nodes: tuple[Node, ...]
    gpus_per_trial: float
    """What `search.gpus_per_trial` is here."""
    concurrency: int
    """Trials at a time, on the nodes that there are."""
    most: int
    """Trials at a time that there may be when other nodes have joined."""
    grows: bool = False
    """Whether the cluster starts nodes when they are asked for, as `search.wait_for_nodes` says."""


def on_a_gpu(part: float) -> int:
    """How many trials with such a part of a GPU Ray puts on one."""
    return UNITS // _units(part)


def nodes() -> tuple[Node, ...]:
    """The nodes that there are now, of the cluster that was joined."""
    import ray

    return tuple(_node(node) for node in ray.nodes() if node["Alive"])


def _node(seen: Mapping[str, Any]) -> Node:
    has, kind = seen["Resources"], "accelerator_type:"
    return Node(
        seen["NodeID"],
        seen["NodeManagerHostname"],
        has.get("CPU", 0.0),
        has.get("GPU", 0.0),
        int(has.get("object_store_memory", 0)),
        next((name.removeprefix(kind) for name in has if name.startswith(kind)), ""),
    )


def held(search: SearchConfig, gpus: float, there: Sequence[Node]) -> int:
    """The sum of what each node holds, which is less than what one with all of their parts would hold."""
    return sum(node.holds(search.cpus_per_trial, gpus) for node in there)


def resources(search: SearchConfig, gpus: float, there: Sequence[Node], *, joined: bool = False) -> Resources:
    """What the nodes have for trials of so many `gpus`.

    Args:
        search: says what a trial takes beside GPUs, and how many there may be.
        gpus: what `search.gpus_per_trial` is here.
        there: the nodes.
        joined: whether other nodes can join them; not where the cluster was started for this sweep.

    Raises:
        InputError: where none is large enough for a trial, with what each has.
    """
    if not held(search, gpus, there):
        raise InputError(_too_small(search, gpus, there))
    grows = joined and search.wait_for_nodes is not None
    now = at_a_time(search, gpus, there, grows=grows)
    most = max(now, search.concurrency or search.trials) if joined else now
    return Resources(tuple(there), gpus, now, most, grows)


def at_a_time(search: SearchConfig, gpus: float, there: Sequence[Node], *, grows: bool) -> int:
    """Trials to run or to wait for a node, where these nodes are there.

    One more than they hold would only wait, chosen without what the others show meanwhile.
    But a cluster that starts nodes when they are asked for has to be asked: by trials that wait.
    """
    room = held(search, gpus, there)
    if grows:
        return search.concurrency or room + 1
    return max(1, min(search.concurrency or room, room))


def _too_small(search: SearchConfig, gpus: float, there: Sequence[Node]) -> str:
    cpus = search.cpus_per_trial
    text = f"search: a trial needs {cpus:g} CPUs and {gpus:g} GPUs, but there are {_has(there)}"
    if len(there) > 1:  # what they have together is of no use to a trial
        alike = Counter((f"{node.name}: " + _has([node])) for node in there)
        text += ", on no one node enough:" + "".join(
            f"\n  {each}" + (f" ({count} such nodes)" if count > 1 else "") for each, count in alike.items()
        )
    return text


def _has(there: Sequence[Node]) -> str:
    return f"{sum(node.cpus for node in there):g} CPUs and {sum(node.gpus for node in there):g} GPUs"


def _units(amount: float) -> int:
    return max(1, round(amount * UNITS)) if amount else 0
