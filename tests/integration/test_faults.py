"""What happens to a machine, done to a real sweep: nothing is lost, nothing doubled, and it can go on."""

import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.conftest import CLEAN, Ended, convene
from tests.support.ray_cluster import three_nodes

pytestmark = pytest.mark.slow

STATUSES = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
METRICS = ("train_loss", "valid_loss", "valid_accuracy", "images_per_second")
SPACE = """
[data]
source = "digits"

[network]
depth = 2
width = { choices = [8, 16] }

[training]
epochs = 20
batch_size = 16
learning_rate = { low = 1e-3, high = 1e-2, log = true }

[search]
trials = 8
sampler = "random"

[ensemble]
size = 3
"""


class Sweep:
    """A sweep called `s` in a folder, run as a user runs it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.root = folder / "mlruns"
        self.environment = environment
        (folder / "s.toml").write_text(SPACE)

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Begins the sweep, or resumes it where it was begun."""
        begun = (self.root / "sweeps/s/sweep.json").exists()
        verb = ["resume", "s"] if begun else ["sweep", "s.toml", "--name", "s", *options]
        return subprocess.Popen(
            [sys.executable, "-m", "convene.cli", *verb],
            cwd=self.folder,
            env={**CLEAN, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def epochs(self) -> int:
        """Epochs that are on disk."""
        return sum(
            path.read_text().count('"epoch":') for path in self.root.glob("sweeps/s/trials/*/trial.json")
        )

    def check(self, trials: int = 8, database: Path | None = None) -> None:
        """All trials asked for have ended once, and MLflow has every epoch of each of them exactly once."""
        table = pd.read_parquet(self.root / "sweeps/s/trials.parquet")
        assert sorted(table.trial) == list(range(trials))
        assert set(table.state) <= set(STATUSES)
        with sqlite3.connect(database or self.root / "mlflow.db") as connection:
            runs = connection.execute(
                "select r.name, r.status from runs r where r.name like 's%' order by r.name"
            ).fetchall()
            rows = connection.execute(
                "select r.name, m.key, m.step from metrics m join runs r using (run_uuid) "
                "where r.name like 's/0%'"
            ).fetchall()
        expected = {
            f"s/{trial:03d}": STATUSES[state] for trial, state in zip(table.trial, table.state, strict=True)
        }
        assert Counter(runs) == Counter({**expected, "s": "FINISHED", "s/ensemble": "FINISHED"}.items())
        assert Counter(rows) == Counter(
            (f"s/{trial:03d}", metric, epoch)
            for trial, epochs in zip(table.trial, table.epochs, strict=True)
            for metric in METRICS
            for epoch in range(1, epochs + 1)
        )


@pytest.fixture
def sweep(tmp_path: Path, mlflow_database: Path) -> Sweep:
    """A sweep that finds MLflow's tables in its storage root."""
    sweep = Sweep(tmp_path)
    sweep.root.mkdir()
    shutil.copy(mlflow_database, sweep.root / "mlflow.db")
    return sweep


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train for a driver."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "Trainable" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_the_driver_killed_at_ten_random_moments(tmp_path: Path) -> None:
    sweep, moments = Sweep(tmp_path), random.Random(0)
    kills = 0
    while kills < 10:
        process = sweep.start()
        # Every third time while it starts; else in training, some epochs further than it was.
        goal = sweep.epochs() + moments.randrange(1, 8) if kills % 3 else None
        end = time.monotonic() + moments.uniform(1, 7)
        while process.poll() is None and (sweep.epochs() < goal if goal else time.monotonic() < end):
            time.sleep(0.02)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    assert kills >= 5, "the sweep was over before it could be killed often enough"
    finish(sweep.start())
    sweep.check()


def test_a_finished_sweep_is_not_changed_by_a_resume(sweep: Sweep) -> None:
    finish(sweep.start("--trials", "2", "--set", "training.epochs=2"))
    before = {path: path.stat().st_mtime_ns for path in sweep.root.rglob("*") if path.is_file()}
    _, err = finish(sweep.start())
    assert "s is finished; nothing was changed" in err
    assert {path: path.stat().st_mtime_ns for path in sweep.root.rglob("*") if path.is_file()} == before


def test_a_worker_killed_in_an_epoch_costs_that_epoch(sweep: Sweep) -> None:
    process = sweep.start("--set", "search.scheduler=none", "--trials", "3")

    def is_training(epochs: int) -> bool:
        return sweep.epochs() >= epochs and bool(workers(process))

    for epochs in (3, 12):
        wait_for(partial(is_training, epochs))
        workers(process)[0].kill()
    finish(process)
    sweep.check(trials=3)
    table = pd.read_parquet(sweep.root / "sweeps/s/trials.parquet")
    assert set(table.state) == {"COMPLETE"}


def test_a_configuration_that_no_machine_holds_fails_and_the_rest_goes_on(sweep: Sweep) -> None:
    # The larger one has 4096 x 16384 kernels of 31 x 31 pixels: 258 GB.
    filters = "network.filters={choices=[[8], [4096, 16384]]}"
    others = ("network.kernel_size=31", "training.epochs=2", "search.retries=1")
    sets = [part for other in (filters, *others) for part in ("--set", other)]
    finish(sweep.start("--trials", "4", *sets))
    sweep.check(trials=4)
    table = pd.read_parquet(sweep.root / "sweeps/s/trials.parquet")
    failed = table[table.state == "FAIL"]
    assert 0 < len(failed) < 4
    assert failed.reason.str.startswith("out of memory, also alone: ").all()


def test_workers_that_ray_kills_for_want_of_memory_cost_an_epoch(sweep: Sweep) -> None:
    memory = psutil.virtual_memory()
    if memory.available < 8e9:
        pytest.skip("less than 8 GB of memory are free")
    threshold = (memory.total - memory.available + 4e9) / memory.total
    sweep.environment["RAY_memory_usage_threshold"] = f"{threshold:.3f}"
    process = sweep.start("--trials", "4", "--set", "search.scheduler=none")
    wait_for(lambda: sweep.epochs() > 5)
    before = {worker.pid for worker in workers(process)}
    taken: list[bytes] = []

    def one_is_gone() -> bool:
        # Bit by bit, and given back at the first kill: Ray goes on killing while there is too little.
        if len(taken) < 20:
            taken.append(b"x" * 250_000_000)
        return bool(before - {worker.pid for worker in workers(process)})

    wait_for(one_is_gone)
    taken.clear()
    finish(process)
    sweep.check(trials=4)
    assert set(pd.read_parquet(sweep.root / "sweeps/s/trials.parquet").state) == {"COMPLETE"}


def test_trials_that_ray_always_kills_are_not_tried_for_ever(sweep: Sweep) -> None:
    sweep.environment["RAY_memory_usage_threshold"] = "0.001"
    _, err = finish(sweep.start("--trials", "2", "--set", "search.retries=1"), code=1)
    assert "no trial finished an epoch" in err
    for trial in (0, 1):
        assert re.search(f"trial {trial}: FAIL .*killed due to the node running low on memory", err)


def test_a_node_killed_in_an_epoch_costs_that_epoch(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    with three_nodes(tmp_path / "nodes", PYTHONPATH=CLEAN.get("PYTHONPATH", "")) as cluster:
        sweep = Sweep(tmp_path, **cluster.environment)
        options = ("--set", "search.scheduler=none", "--trials", "4", "--concurrency", "2")
        process = sweep.start(*options, "--address", cluster.address)
        wait_for(lambda: len(list(sweep.root.glob("sweeps/s/trials/*/trial.json"))) >= 2)
        wait_for(lambda: sweep.epochs() >= 6)
        cluster.kill_last_node()
        finish(process)
    sweep.check(trials=4)
    table = pd.read_parquet(sweep.root / "sweeps/s/trials.parquet")
    assert set(table.state) == {"COMPLETE"}


def test_ctrl_c_ends_in_good_order_and_the_sweep_goes_on(sweep: Sweep) -> None:
    process = sweep.start()
    wait_for(lambda: sweep.epochs() > 10)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, code=130)
    assert "interrupted; continue with: convene resume s" in err
    with sqlite3.connect(sweep.root / "mlflow.db") as connection:
        assert "RUNNING" not in {status for (status,) in connection.execute("select status from runs")}
    finish(sweep.start())
    sweep.check()


def test_a_sweep_that_is_running_is_left_alone(
    sweep: Sweep, convene_here: Callable[..., Ended], tmp_path: Path
) -> None:
    convene_here(
        "list", folder=tmp_path
    )  # loads the libraries, so that what follows is quicker than the sweep
    process = sweep.start("--trials", "3")
    wait_for(lambda: sweep.epochs() > 2)
    for verb in ("resume", "sync"):
        ended = convene_here(verb, "s", folder=tmp_path)
        assert ended.code == 2
        assert "another process is running it" in ended.err
    finish(process)
    sweep.check(trials=3)


def test_ctrl_c_twice_ends_at_once_and_the_sweep_goes_on(sweep: Sweep) -> None:
    process = sweep.start()
    wait_for(lambda: sweep.epochs() > 10)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    finish(sweep.start())
    sweep.check()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real server on loopback, ended with the context."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    # Job execution starts nine more processes, for language models.
    alone = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, cwd=folder, env={**CLEAN, **alone}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: answers(port))
        yield server
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return True
    except OSError:
        return False


def test_a_server_away_for_half_a_minute_loses_nothing(tmp_path: Path, mlflow_database: Path) -> None:
    port = free_port()
    shutil.copy(mlflow_database, tmp_path / "server.db")
    sweep = Sweep(tmp_path, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    with mlflow_server(tmp_path, port):
        process = sweep.start("--trials", "16", "--json")
        wait_for(lambda: sweep.epochs() > 10)
    before = sweep.epochs()
    time.sleep(30)
    assert sweep.epochs() > before, "training waited for the server"
    with mlflow_server(tmp_path, port):
        out, _ = finish(process)
        assert json.loads(out)["states"]  # one object, whatever MLflow's client has to say
        assert convene("sync", "s", folder=tmp_path, **sweep.environment).code == 0
    sweep.check(trials=16, database=tmp_path / "server.db")


def test_a_server_that_stays_away_is_told_later(tmp_path: Path, mlflow_database: Path) -> None:
    port = free_port()
    shutil.copy(mlflow_database, tmp_path / "server.db")
    sweep = Sweep(tmp_path, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    with mlflow_server(tmp_path, port):
        process = sweep.start("--trials", "3")
        wait_for(lambda: sweep.epochs() > 5)
    out, _ = finish(process)
    assert "convene sync s" in out
    with mlflow_server(tmp_path, port):
        for _ in range(2):  # the second time there is nothing to write
            assert convene("sync", "s", folder=tmp_path, **sweep.environment).code == 0
    sweep.check(trials=3, database=tmp_path / "server.db")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system of 64 MB cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_sweep_and_room_lets_it_go_on(small_disk: Path) -> None:
    sweep = Sweep(small_disk)
    process = sweep.start()
    wait_for(lambda: sweep.epochs() > 5)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    _, err = finish(process, code=1)
    assert "No space left on device" in err
    assert "convene resume s" in err
    ballast.unlink()
    finish(sweep.start())
    sweep.check()
