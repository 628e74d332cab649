"""The Ray cluster that a sweep runs on: joined or started, and left."""

import gc
import logging
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from convene import environment
from convene.cluster import auth
from convene.errors import InputError, last_line
from convene.storage import Storage

_CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_ANSWER_WITHIN = 5  # seconds that a cluster has to take a connection
_WRITE_WITHIN = (
    30  # seconds that a node has to start a worker, which takes it some, and read and write a file
)


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Joins the Ray cluster at `address` (or `RAY_ADDRESS`), or starts one on this machine, and leaves it.

    Raises:
        InputError: if no cluster answers there.
    """
    address = chosen(address)
    _check_answers(address)
    try:
        ray.init(
            address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=_dashboard(address)
        )
    except ray.exceptions.AuthenticationError:
        raise InputError(auth.refusal(address)) from None
    except (OSError, RuntimeError, ValueError) as error:
        if address == "local":
            raise InputError(f"no Ray cluster can be started here: {last_line(error)}") from None
        raise InputError(f"--address {address}: {_why_not(error)}") from None
    try:
        yield
    finally:
        _leave()


def chosen(address: str | None) -> str:
    """Where the cluster is: `address`, else `RAY_ADDRESS`, else `local`, which is one of this sweep's own."""
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes to reach a cluster that is not there."""
    scheme, mark, _ = address.partition("://")
    if mark:
        instead = "; to hand it to the head: convene submit" if scheme in ("http", "https") else ""
        raise InputError(f"--address {address}: a sweep joins the cluster at HOST:6379{instead}")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_WITHIN).close()
    except (OSError, OverflowError, UnicodeError) as error:  # of names that cannot be a host's, too
        why = getattr(error, "strerror", None) or error
        raise InputError(f"--address {address}: no Ray cluster answers: {why}") from None
    if os.environ.get("RAY_USE_TLS", "0") == "0":
        _check_takes_us(address)


def _check_takes_us(address: str) -> None:
    """Asks for the cluster's id, as Ray does first; Ray itself tells no wrong token from no cluster."""
    import grpc  # type: ignore[import-untyped]

    token = tuple((name.lower(), value) for name, value in auth.bearer().items())
    # As Ray does: a proxy for web pages is none for this.
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_CLUSTER_ID)(b"", timeout=_ANSWER_WITHIN, metadata=token)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise InputError(auth.refusal(address)) from None
            raise InputError(
                f"--address {address}: what answers there is no Ray cluster; a sweep joins it at HOST:6379, "
                "not at its dashboard"
            ) from None


def _why_not(error: Exception) -> str:
    """What to say of an error of Ray's on joining or starting a cluster."""
    versions = re.findall(r"(?:Ray|Python): (\S+)", str(error))
    if "Version mismatch" in str(error) and len(versions) == 4:
        ray_there, python_there, ray_here, python_here = versions
        return (
            f"the cluster has Ray {ray_there} and Python {python_there}, here are Ray {ray_here} and Python "
            f"{python_here}; both sides need the same: use an environment with ray=={ray_there} and Python "
            f"{python_there} here, or start the cluster from this one"
        )
    return f"no Ray cluster answers: {last_line(error)}"


def _leave() -> None:
    """Leaves the cluster; ends the one that was started for this sweep.

    A reference to an object of Ray's that is collected while Ray shuts down, by any thread, ends the process:
    so what can be collected is collected before, and nothing meanwhile.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _dashboard(address: str) -> bool | None:
    """A cluster of our own needs none; a running one has what it has."""
    return False if address == "local" else None


def check_storage(storage: Storage) -> None:
    """Has every node of the cluster that was joined read a file under the root and write another.

    A cluster of one node is not asked: what is to be seen there was seen when the driver wrote.

    Raises:
        InputError: naming each node that does not see the storage, and why; or has other libraries than this.
    """
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) == 1:
        return
    asked = f".node-check-{uuid.uuid4().hex}"
    storage.write(asked, asked.encode())
    try:
        answers = {node: _pinned(node).remote(storage, asked, f"{asked}-{node}") for node in nodes}
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=_WRITE_WITHIN)
        blind = {
            node: problem for node in nodes if (problem := _problem(storage, asked, node, answers[node]))
        }
    finally:
        for path in (asked, *(f"{asked}-{node}" for node in nodes)):
            storage.remove(path)
    if blind:
        each = "".join(f"\n  {nodes[node]} ({node[:8]}): {problem}" for node, problem in blind.items())
        raise InputError(
            f"storage = {storage.root}: {len(blind)} of the cluster's {len(nodes)} nodes do not see it:{each}"
        )
    _check_libraries({f"{nodes[node]} ({node[:8]})": ray.get(answers[node]) for node in nodes})


def _check_libraries(nodes: Mapping[str, Mapping[str, str]]) -> None:
    here = environment.comparable()
    unlike = {node: differing for node, there in nodes.items() if (differing := _unlike(there, here))}
    if unlike:
        each = "".join(f"\n  {node}: {differing}" for node, differing in unlike.items())
        raise InputError(
            f"{len(unlike)} of the cluster's {len(nodes)} nodes have other libraries than this one:{each}\n"
            f"give every node: pip install {environment.requirements(here)}"
        )


def _unlike(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    differing = environment.differences(there, here)
    return ", ".join(f"{package} {other}, here {mine}" for package, (other, mine) in differing.items())


def _pinned(node: str) -> Any:
    """The task of a node alone; it needs no processor, so that it need not wait for one."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_write_back).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)


def _write_back(storage: Storage, asked: str, answer: str) -> dict[str, str]:
    storage.write(answer, storage.read(asked))
    return environment.comparable()


def _problem(storage: Storage, asked: str, node: str, answer: "ray.ObjectRef[Any]") -> str | None:
    """Why a node does not see the storage, or None where it does."""
    try:
        ray.get(answer, timeout=0)
        written = storage.read(f"{asked}-{node}")
    except ray.exceptions.GetTimeoutError:
        return f"no answer in {_WRITE_WITHIN} s"
    except FileNotFoundError:
        return "it has another folder under this name"
    except ray.exceptions.RayError as error:
        return last_line(error)
    return None if written == asked.encode() else "it read something else"
