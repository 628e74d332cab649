"""Real Ray clusters on this machine, with token authentication: three nodes and a dashboard, or one node."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import CLEAN

# A head without CPUs for trials, and two nodes with one CPU each, until standard input ends. Each has its own
# folder, as on separate machines: a node unpacks a job's code into it, and a job finds its cluster by a file
# in the head's folder.
NODES = """
import os, socket, sys, tempfile
from contextlib import ExitStack

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

with ExitStack() as stack:
    folders = [stack.enter_context(tempfile.TemporaryDirectory(prefix="node-")) for _ in range(3)]
    os.environ["RAY_TMPDIR"] = folders[0]
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
    ports = {"dashboard_port": free_port(), "dashboard_agent_listen_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args={**head, **ports})
    nodes = [cluster.add_node(num_cpus=1, temp_dir=folder) for folder in folders[1:]]
    cluster.wait_for_nodes()
    print(cluster.address, cluster.webui_url, nodes[-1].all_processes["raylet"][0].process.pid, flush=True)
    sys.stdin.read()
    cluster.shutdown()
"""

# One node with this machine's processors, until standard input ends.
NODE = """
import os, sys, tempfile

with tempfile.TemporaryDirectory(prefix="node-") as folder:
    os.environ["RAY_TMPDIR"] = folder
    from ray.cluster_utils import Cluster

    node = {"num_cpus": os.cpu_count(), "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()
"""


@dataclass(frozen=True)
class RayCluster:
    """A running cluster: its addresses and its token."""

    address: str
    """HOST:PORT, for `convene sweep`."""
    dashboard: str
    """http://HOST:PORT, for `convene submit`."""
    environment: dict[str, str]
    """The environment variables of a client, with the token."""
    last_node: psutil.Process
    """The raylet process of the last node."""

    def kill_last_node(self) -> None:
        """Kill all processes of the last node at once, as in a power failure."""
        for process in (*self.last_node.children(recursive=True), self.last_node):
            process.kill()


@contextmanager
def three_nodes(folder: Path, **environment: str) -> Iterator[RayCluster]:
    """Start a cluster of three nodes in `folder`, with extra `environment` such as credentials of a store.

    The package `convene` on its path cannot be imported, so a job works only with the code that was sent.
    """
    token = new_token()
    (folder / "path/convene").mkdir(parents=True)
    (folder / "path/convene/__init__.py").write_text('raise ImportError("this code was not sent")\n')
    # The head looks up `python` on the path to run a job.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    paths = {"PATH": path, "PYTHONPATH": str(folder / "path")}
    with running(NODES, folder, {**paths, **token, **environment}) as (address, dashboard, raylet):
        yield RayCluster(address, f"http://{dashboard}", token, psutil.Process(int(raylet)))


@contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Start a cluster of one node and yield the environment variables that make a command join it."""
    token = new_token()
    with running(NODE, folder, token) as [address]:
        yield {"RAY_ADDRESS": address, **token}


def new_token() -> dict[str, str]:
    """Return the environment variables of a cluster with a token of its own."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}


@contextmanager
def running(program: str, folder: Path, environment: dict[str, str]) -> Iterator[list[str]]:
    """Run a program that starts nodes, and yield the words of the line that it then prints."""
    with (folder / "nodes.log").open("wb") as log:
        nodes = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=folder,
            env={**CLEAN, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert nodes.stdout
        line = nodes.stdout.readline()
        assert line, (folder / "nodes.log").read_text()
        yield line.split()
    finally:
        nodes.communicate(timeout=60)


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Start one cluster for all tests that do not kill its nodes."""
    with three_nodes(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
