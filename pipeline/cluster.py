"""The Ray cluster that a sweep runs on: joined or started, and left."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from pipeline.config import SearchConfig
from pipeline.errors import InputError, last_line

_ANSWER_WITHIN = 5  # seconds that a cluster has to take a connection


@dataclass(frozen=True)
class Resources:
    """What the cluster has, and how many trials it holds at a time."""

    cpus: float
    gpus: float
    concurrency: int


@contextmanager
def join(address: str | None, search: SearchConfig) -> Iterator[Resources]:
    """Joins the Ray cluster at `address` (or `RAY_ADDRESS`), or starts one on this machine, and leaves it.

    Raises:
        InputError: if no cluster answers there, or it is too small for one trial.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    try:
        ray.init(
            address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=_dashboard(address)
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers: {last_line(error)}") from None
    try:
        yield _resources(search)
    finally:
        leave()


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes to reach a cluster that is not there."""
    if address.startswith("ray://"):
        raise InputError(f"--address {address}: a sweep joins the cluster at HOST:6379, not its client port")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_WITHIN).close()
    except OSError as error:
        raise InputError(f"--address {address}: no Ray cluster answers: {error.strerror or error}") from None


def leave() -> None:
    """Leaves the cluster before the context ends; ends the one that was started for this sweep."""
    ray.shutdown()


def _dashboard(address: str) -> bool | None:
    """A cluster of our own needs none; a running one has what it has."""
    return False if address == "local" else None


def _resources(search: SearchConfig) -> Resources:
    has = ray.cluster_resources()
    cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    held = int(cpus / search.cpus_per_trial)
    if search.gpus_per_trial:
        held = min(held, int(gpus / search.gpus_per_trial))
    if not held:
        raise InputError(
            f"search: a trial needs {search.cpus_per_trial:g} CPUs and {search.gpus_per_trial:g} GPUs, "
            f"but there are {cpus:g} CPUs and {gpus:g} GPUs"
        )
    return Resources(cpus, gpus, min(search.concurrency or held, held))
