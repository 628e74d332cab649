"""The Ray cluster that a sweep runs on: connecting, checking its nodes, disconnecting."""

import gc
import logging
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from convene import environment
from convene.cluster import auth
from convene.errors import InputError, last_line
from convene.storage import Storage

_GET_CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"
# Seconds for a node to read and write a file, which includes the start of a worker.
_WRITE_SECONDS = 30
_LOCAL = "local"  # Ray's own word


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to."""

    is_local: bool
    """True if it was started for this sweep on this machine, False if it was already running."""


@contextmanager
def connect(address: str | None) -> Iterator[Cluster]:
    """Connect to the Ray cluster at `address` (or `RAY_ADDRESS`), or start one on this machine.

    Disconnect at the end of the context, and stop the cluster if it was started here.

    Raises:
        InputError: if no cluster answers there.
    """
    address = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    cluster = Cluster(is_local=address == _LOCAL)
    _check_reachable(address)
    try:
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # A local cluster needs no dashboard; on a running one this is not ours to decide.
            include_dashboard=False if cluster.is_local else None,
        )
    except ray.exceptions.AuthenticationError:
        raise InputError(auth.token_error(address)) from None
    except (OSError, RuntimeError, ValueError) as error:
        if cluster.is_local:
            raise InputError(f"cannot start a Ray cluster on this machine: {last_line(error)}") from None
        raise InputError(f"--address {address}: {_connection_error(error)}") from None
    try:
        yield cluster
    finally:
        _disconnect()


def _check_reachable(address: str) -> None:
    """Raise InputError if no cluster answers at `address`. Ray itself would retry for minutes."""
    scheme, separator, _ = address.partition("://")
    if separator:
        hint = "; to submit it as a job instead: convene submit" if scheme in ("http", "https") else ""
        raise InputError(f"--address {address}: a sweep joins the cluster at HOST:6379{hint}")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        timeout = environment.ANSWER_SECONDS
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except (OSError, OverflowError, UnicodeError) as error:  # the last two: not a valid port or host name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--address {address}: no Ray cluster answers: {reason}") from None
    if os.environ.get("RAY_USE_TLS", "0") == "0":
        _check_token(address)


def _check_token(address: str) -> None:
    """Raise InputError if the server is not a Ray cluster, or rejects our token.

    Ask for the cluster's id, as Ray does first. Ray itself does not distinguish a wrong token from a missing
    cluster.
    """
    import grpc  # type: ignore[import-untyped]

    metadata = tuple((name.lower(), value) for name, value in auth.headers().items())
    # Without a proxy for HTTP, as in Ray.
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            get_cluster_id = channel.unary_unary(_GET_CLUSTER_ID)
            get_cluster_id(b"", timeout=environment.ANSWER_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise InputError(auth.token_error(address)) from None
            raise InputError(
                f"--address {address}: the server there is not a Ray cluster; a sweep joins the cluster at "
                "HOST:6379, not at its dashboard"
            ) from None


def _connection_error(error: Exception) -> str:
    """Return the message for an error that Ray raised on connecting to a cluster."""
    versions = re.findall(r"(?:Ray|Python): (\S+)", str(error))
    if "Version mismatch" in str(error) and len(versions) == 4:
        ray_there, python_there, ray_here, python_here = versions
        return (
            f"the cluster runs Ray {ray_there} and Python {python_there}, but this machine runs Ray "
            f"{ray_here} and Python {python_here}; the versions must match: use an environment with "
            f"ray=={ray_there} and Python {python_there} here, or start the cluster from this environment"
        )
    return f"no Ray cluster answers: {last_line(error)}"


def _disconnect() -> None:
    """Disconnect from the cluster, and stop it if it was started for this sweep.

    If a reference to a Ray object is garbage-collected while Ray shuts down, in any thread, the process dies.
    So collect garbage before, and none during the shutdown.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def check_storage(storage: Storage) -> None:
    """Check that every node reads and writes files under the storage root, and has this machine's libraries.

    A cluster of one node needs no check: the driver has already written to the storage there.

    Raises:
        InputError: if the storage is not visible on some nodes, with each node and the reason; or if their
            libraries differ.
    """
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) == 1:
        return
    request = f".node-check-{uuid.uuid4().hex}"
    storage.write(request, request.encode())
    try:
        answers = {node: _task_on_node(node).remote(storage, request, f"{request}-{node}") for node in nodes}
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=_WRITE_SECONDS)
        problems = {
            node: problem
            for node in nodes
            if (problem := _storage_error(storage, request, node, answers[node]))
        }
    finally:
        for path in (request, *(f"{request}-{node}" for node in nodes)):
            storage.remove(path)
    if problems:
        lines = "".join(f"\n  {nodes[node]} ({node[:8]}): {problem}" for node, problem in problems.items())
        raise InputError(
            f"storage = {storage.root}: not visible on {len(problems)} of the cluster's {len(nodes)} nodes:"
            f"{lines}"
        )
    _check_libraries({f"{nodes[node]} ({node[:8]})": ray.get(answers[node]) for node in nodes})


def _check_libraries(nodes: Mapping[str, Mapping[str, str]]) -> None:
    """Raise InputError if some nodes have other versions than this machine."""
    here = environment.comparable_versions()
    differing = {node: text for node, there in nodes.items() if (text := _describe_differences(there, here))}
    if differing:
        lines = "".join(f"\n  {node}: {text}" for node, text in differing.items())
        raise InputError(
            f"{len(differing)} of the cluster's {len(nodes)} nodes have other versions than this machine:"
            f"{lines}\ninstall on every node: pip install {environment.pip_requirements(here)}"
        )


def _describe_differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    differences = environment.differences(there, here)
    return ", ".join(f"{package} {other}, here {mine}" for package, (other, mine) in differences.items())


def _task_on_node(node: str) -> Any:
    """Return a remote function that runs on that node only. It needs no CPU, so it never waits for one."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_echo_file).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)


def _echo_file(storage: Storage, request: str, answer: str) -> dict[str, str]:
    """Copy the file `request` to `answer`, and return the node's versions."""
    storage.write(answer, storage.read(request))
    return environment.comparable_versions()


def _storage_error(storage: Storage, request: str, node: str, answer: "ray.ObjectRef[Any]") -> str | None:
    """Return why the storage is not visible on a node, or None if it is."""
    try:
        ray.get(answer, timeout=0)
        written = storage.read(f"{request}-{node}")
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {_WRITE_SECONDS} s"
    except FileNotFoundError:
        return "this path is a different folder there"
    except ray.exceptions.RayError as error:
        return last_line(error)
    return None if written == request.encode() else "different file contents there"
