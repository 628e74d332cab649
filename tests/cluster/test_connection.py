"""A storage that some node does not see is found before any training, on real nodes."""

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

UNTIL_TWO = """
import ray, sys, time
ray.init(sys.argv[1], logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.1)
"""


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a cluster of one node with one processor."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield nodes.address
    finally:
        nodes.shutdown()


@contextmanager
def another_node(address: str, blind_to: Path | None = None, packages: Path | None = None) -> Iterator[None]:
    """Another node of the cluster; blind, it has its own file system; `packages` are before its others."""
    ray = Path(sys.executable).parent / "ray"
    command = [str(ray), "start", f"--address={address}", "--num-cpus=1", "--block"]
    if blind_to:
        mounted = f'mount -t tmpfs tmpfs "{blind_to}" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mounted, "sh", *command]
    path = os.pathsep.join(filter(None, (str(packages or ""), os.environ.get("PYTHONPATH"))))
    node = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        subprocess.run([sys.executable, "-c", UNTIL_TWO, address], check=True, timeout=60)
        yield
    finally:
        node.terminate()
        node.wait(timeout=30)


def test_all_nodes_see_a_shared_folder_and_a_blind_one_is_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (tmp_path / "s.toml").write_text(SPACE)
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("a node cannot be given a file system of its own here")
    with cluster() as address:
        arguments = (tmp_path / "s.toml", "--storage", runs, "--address", address)
        with another_node(address):
            seen = convene("sweep", *arguments, "--name", "seen", "--json")
            assert seen.code == 0, seen.err
        before = sorted(runs.iterdir())
        with another_node(address, blind_to=runs):
            for verb, code in (("sweep", 2), ("preflight", 1)):
                refused = convene(verb, *arguments)
                assert refused.code == code, refused.err
                assert "1 of the cluster's 2 nodes do not see it" in refused.out + refused.err
        assert sorted(runs.iterdir()) == before


def test_a_node_with_another_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SPACE)
    older = tmp_path / "packages/torch-2.1.0.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.1.0\n")
    with cluster() as address, another_node(address, packages=tmp_path / "packages"):
        refused = convene("sweep", tmp_path / "s.toml", "--storage", tmp_path / "runs", "--address", address)
    assert refused.code == 2, refused.err
    assert "1 of the cluster's 2 nodes have other libraries" in refused.err
    assert re.search(r"torch 2\.1\.0, here 2\.", refused.err)
    assert not (tmp_path / "runs/sweeps").exists()
