"""A real Ray cluster of three nodes on this machine, with token authentication and a dashboard."""

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

# A head that trains nothing, and two nodes of one processor each, until standard input ends. Their folders
# are their own, as on machines of their own: a node unpacks a job's code over what is there, and a job finds
# its cluster by a file in the head's.
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


@dataclass(frozen=True)
class RayCluster:
    """A cluster that runs: where, and how to get in."""

    address: str
    """HOST:PORT, for `convene sweep`."""
    dashboard: str
    """http://HOST:PORT, for `convene submit`."""
    environment: dict[str, str]
    """What a client needs: the token."""
    last_node: psutil.Process
    """Stands for the last of the two nodes that train."""

    def kill_last_node(self) -> None:
        """All of its processes at once, as a machine that goes dark."""
        for process in (*self.last_node.children(recursive=True), self.last_node):
            process.kill()


@contextmanager
def three_nodes(folder: Path, **environment: str) -> Iterator[RayCluster]:
    """A cluster of three nodes which run in `folder` with more `environment`, such as a store's credentials.

    There is a package `convene` on its path that cannot be imported: code must travel to be found.
    """
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    (folder / "path/convene").mkdir(parents=True)
    (folder / "path/convene/__init__.py").write_text('raise ImportError("this code did not travel")\n')
    # `python` is what runs a job, found as the head finds it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = {"PATH": path, "PYTHONPATH": str(folder / "path")}
    with (folder / "nodes.log").open("wb") as log:
        nodes = subprocess.Popen(
            [sys.executable, "-c", NODES],
            cwd=folder,
            env={**CLEAN, **known, **token, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert nodes.stdout
        said = nodes.stdout.readline().split()
        assert len(said) == 3, (folder / "nodes.log").read_text()
        yield RayCluster(said[0], f"http://{said[1]}", token, psutil.Process(int(said[2])))
    finally:
        nodes.communicate(timeout=60)


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One for all tests that leave its nodes alive."""
    with three_nodes(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
