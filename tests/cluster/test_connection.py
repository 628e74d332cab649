"""Checks of a cluster's nodes before any training: visible storage and equal libraries. On real nodes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import convene

pytestmark = pytest.mark.slow

SPACE = """
[network]
depth = 1
width = 4
[training]
epochs = 1
[search]
trials = 2
[ensemble]
size = 2
"""

WAIT_FOR_TWO_NODES = """
import ray, sys, time
ray.init(sys.argv[1], logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.1)
"""


@contextmanager
def cluster() -> Iterator[str]:
    """Start a cluster of one node with one CPU, and yield its address."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield nodes.address
    finally:
        nodes.shutdown()


@contextmanager
def another_node(address: str, hidden: Path | None = None, packages: Path | None = None) -> Iterator[None]:
    """Add a node to the cluster.

    Args:
        address: the cluster.
        hidden: a folder that is empty on this node, as it is not shared with it.
        packages: a folder of packages that take precedence on this node.
    """
    ray = Path(sys.executable).parent / "ray"
    command = [str(ray), "start", f"--address={address}", "--num-cpus=1", "--block"]
    if hidden:
        mount = f'mount -t tmpfs tmpfs "{hidden}" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
    path = os.pathsep.join(filter(None, (str(packages or ""), os.environ.get("PYTHONPATH"))))
    node = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        subprocess.run([sys.executable, "-c", WAIT_FOR_TWO_NODES, address], check=True, timeout=60)
        yield
    finally:
        node.terminate()
        node.wait(timeout=30)


def test_a_node_without_the_shared_folder_is_reported(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (tmp_path / "s.toml").write_text(SPACE)
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("cannot hide a folder from a node on this machine")
    with cluster() as address:
        arguments = (tmp_path / "s.toml", "--storage", runs, "--address", address)
        with another_node(address):
            shared = convene("sweep", *arguments, "--name", "seen", "--json")
            assert shared.code == 0, shared.err
        before = sorted(runs.iterdir())
        with another_node(address, hidden=runs):
            for command, code in (("sweep", 2), ("preflight", 1)):
                failed = convene(command, *arguments)
                assert failed.code == code, failed.err
                assert "not visible on 1 of the cluster's 2 nodes" in failed.out + failed.err
        assert sorted(runs.iterdir()) == before


def test_a_node_with_another_version_of_a_library_is_reported(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SPACE)
    older = tmp_path / "packages/torch-2.1.0.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.1.0\n")
    with cluster() as address, another_node(address, packages=tmp_path / "packages"):
        failed = convene("sweep", tmp_path / "s.toml", "--storage", tmp_path / "runs", "--address", address)
    assert failed.code == 2, failed.err
    assert "1 of the cluster's 2 nodes have other versions" in failed.err
    assert re.search(r"torch 2\.1\.0, here 2\.", failed.err)
    assert not (tmp_path / "runs/sweeps").exists()
