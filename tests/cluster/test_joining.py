"""Nodes with and without GPUs, and nodes that join late. The Ray nodes are real, their GPUs are fake."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import CLEAN
from tests.integration.test_faults import Sweep, finish, wait_for

pytestmark = pytest.mark.cluster

# Trials train on the CPU. The fake GPU holds two of the largest trial. Trials with 16 filters run out of
# memory unless they have a whole GPU.
PROGRAM = """
import sys
import ray
from ray.cluster_utils import Cluster
from convene.cluster import profiling
from convene.sweep import run, tuner
from convene.cluster.profiling import GpuMemory
from convene.sweep.worker import TrialWorker

PLACED = sys.argv[1] + "/placed"

class Greedy(TrialWorker):
    def _epoch(self):
        context = ray.get_runtime_context()
        gpus, node = context.get_assigned_resources().get("GPU", 0.0), context.get_node_id()
        with open(PLACED, "a") as file:
            print(self._number, gpus, node, file=file)
        if self._configuration.network.width == 16 and gpus < 1 and self._epochs:
            raise MemoryError("fake: out of memory")
        return super()._epoch()

tuner._GPU_DEVICE, tuner.TrialWorker = "cpu", Greedy
profiling.measure_gpu_memory = lambda configuration, data, search, nodes: GpuMemory(10**9, 22 * 10**8)
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
with_gpu = nodes.add_node(num_cpus=3, num_gpus=1)
nodes.wait_for_nodes()
print(with_gpu.node_id, flush=True)
try:
    run.run_sweep(
        "s.toml", name="s", address=nodes.address,
        watch=lambda progress: print(progress.event, flush=True), announce=print,
        overrides={
            "search.gpus_per_trial": "auto", "search.trials": 4, "search.scheduler": "none",
            "training.epochs": 3, "network.width": {"choices": [8, 16]},
        },
    )
finally:
    nodes.shutdown()
"""


def test_trials_share_a_gpu_and_get_a_whole_one_after_running_out_of_memory(
    tmp_path: Path,
) -> None:
    sweep = Sweep(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=tmp_path,
        env={**CLEAN, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sweep.check(trials=4)
    assert (
        "gpus: 0.5 per trial, 2 trials at a time; a GPU of 2.2 GB holds 2 of the largest trial, 1 GB each"
        in done.stdout
    )
    table = pd.read_parquet(sweep.root / "sweeps/s/trials.parquet")
    assert set(table.state) == {"COMPLETE"}
    greedy = set(table[table["network.width"] == 16].trial)
    assert 0 < len(greedy) < 4
    placed = [line.split() for line in (tmp_path / "placed").read_text().splitlines()]
    assert {node for _, _, node in placed} == {done.stdout.split()[0]}  # the node with the GPU
    gpus_by_epoch: dict[int, list[float]] = {int(number): [] for number, _, _ in placed}
    for number, gpus, _ in placed:
        gpus_by_epoch[int(number)].append(float(gpus))
    for trial_number, fractions in gpus_by_epoch.items():
        # The first epoch, an attempt at the second, then the second and third on a whole GPU.
        assert fractions == ([0.5, 0.5, 1.0, 1.0] if trial_number in greedy else [0.5] * 3), trial_number
    # The sweep records "auto", so that a resume elsewhere resolves it again. A trial records its own value.
    assert 'gpus_per_trial = "auto"' in (sweep.root / "sweeps/s/search_space.toml").read_text()
    trial = json.loads((sweep.root / "sweeps/s/trials/0000/trial.json").read_text())
    assert trial["configuration"]["search"]["gpus_per_trial"] == 0.5


ONE_NODE_AND_MORE = """
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
for cpus in iter(input, ""):
    cluster.add_node(num_cpus=int(cpus))
cluster.shutdown()
"""


@contextmanager
def one_node(**environment: str) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Start a cluster with one CPU. Yield its address, and a function that adds a node with some CPUs."""
    program = [sys.executable, "-c", ONE_NODE_AND_MORE]
    with subprocess.Popen(
        program,
        env={**CLEAN, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin and process.stdout

        def add(cpus: int) -> None:
            print(cpus, file=process.stdin, flush=True)

        try:
            yield process.stdout.readline().strip(), add
        finally:
            process.communicate("\n", timeout=60)


def test_a_node_that_joins_late_gets_trials(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, RAY_AUTH_MODE="disabled")
    with one_node(**sweep.environment) as (address, add_node):
        # Enough epochs that trials are left when the node joins, which takes a while on a busy machine.
        sets = ("--set", "search.scheduler=none", "--set", "training.epochs=150")
        process = sweep.start(*sets, "--trials", "4", "--address", address)
        wait_for(lambda: sweep.epochs() > 3)
        assert len(running(sweep)) == 1
        add_node(1)
        wait_for(lambda: len(running(sweep)) == 2)
        finish(process)
    sweep.check(trials=4)


def running(sweep: Sweep) -> list[Path]:
    """Return the states from which trials can be resumed. A trial has one between two epochs."""
    return list(sweep.root.glob("sweeps/s/trials/*/state.safetensors"))


def test_a_sweep_waits_for_a_node_that_is_large_enough(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, RAY_AUTH_MODE="disabled")
    sets = ("--set", "search.cpus_per_trial=2", "--trials", "2", "--set", "training.epochs=2")
    with one_node(**sweep.environment) as (address, add_node):
        _, err = finish(sweep.start(*sets, "--address", address), code=2)
        assert "a trial needs 2 CPUs and 0 GPUs, but the cluster has 1 CPUs and 0 GPUs" in err
        waits = ("--set", "search.wait_for_nodes=2m")
        process = sweep.start(*sets, *waits, "--address", address)
        assert process.stderr
        assert "waiting for a node, at most 120 s" in process.stderr.readline()
        add_node(2)
        finish(process)
    sweep.check(trials=2)
