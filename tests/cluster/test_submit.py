"""A sweep handed to a real cluster: it outlives its client, is stopped, goes on, and shows no credential."""

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CLEAN, Ended, convene
from tests.integration.test_faults import Sweep, wait_for
from tests.support.planted import SECRETS, assert_nothing_planted
from tests.support.ray_cluster import RayCluster, ray_cluster, three_nodes

pytestmark = pytest.mark.cluster

__all__ = ["ray_cluster"]  # a fixture

OTHER_VERSIONS = """
import json, ray, sys
from ray.experimental import internal_kv

ray.init(sys.argv[1], logging_level="ERROR")
key, space = b"CLUSTER_METADATA", b"cluster"
known = json.loads(internal_kv._internal_kv_get(key, namespace=space))
known |= {"ray_version": "2.59.1", "python_version": "3.12.4"}
internal_kv._internal_kv_put(key, json.dumps(known), True, namespace=space)
"""


class Client:
    """The command of someone who knows the cluster's token and other secrets."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.environment = {**cluster.environment, **SECRETS}
        self.said = ""

    def run(self, *words: str, **environment: str) -> Ended:
        address = ("--address", self.cluster.dashboard)
        ended = convene(*words, *address, folder=self.folder, **{**self.environment, **environment})
        self.said += ended.out + ended.err
        return ended

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "convene.cli", *words, "--address", self.cluster.dashboard]
        environment = {**CLEAN, **self.environment}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True
        )


def test_a_sweep_outlives_its_client_and_goes_on_after_a_stop(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    sweep, client = Sweep(tmp_path), Client(ray_cluster, tmp_path)
    begun = client.start("submit", "s.toml", "--trials", "6", "--storage", "mlruns")
    wait_for(lambda: sweep.epochs() > 2 or begun.poll() is not None, 180)
    begun.send_signal(signal.SIGINT)
    out, err = begun.communicate(timeout=30)
    client.said += out + err
    assert begun.returncode == 130, client.said
    assert "disk: " in out  # what the sweep itself says
    assert f"convene logs s --address {ray_cluster.dashboard}" in err

    status = client.run("status", "s", "--json").json
    assert (status["state"], status["storage"]) == ("RUNNING", str(sweep.root))
    again = client.run("submit", "s.toml", "--name", "s", "--storage", "mlruns")
    assert (again.code, "has a job of that name" in again.err) == (2, True), again.err
    again = client.run("submit", "s")
    assert (again.code, "is at work on sweep s" in again.err) == (2, True), again.err

    before = sweep.epochs()
    wait_for(lambda: sweep.epochs() > before)
    stopped = client.run("stop", "s")
    assert stopped.code == 0, stopped.err
    assert "job s: STOPPED" in stopped.out
    assert f"convene submit s --address {ray_cluster.dashboard}" in stopped.out
    with sqlite3.connect(sweep.root / "mlflow.db") as connection:
        assert "RUNNING" not in {status for (status,) in connection.execute("select status from runs")}
    log = client.run("logs", "s", "--json").json["log"]
    assert "interrupted; go on with" in log
    client.said += log

    ended = client.run("submit", "s", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["id"], ended.json["state"], ended.json["exit_code"]) == ("s~2", "SUCCEEDED", 0)
    assert sum(ended.json["result"]["states"].values()) == 6
    sweep.check(trials=6)
    assert client.run("logs", "s").out.count('"test_reads": 1') == 1

    more = client.run("submit", "s.toml", "--storage", "mlruns", "--trials", "0")
    assert (more.code, "--trials 0" in more.err) == (2, True), more.err
    api = json.dumps([client.run("status", name, "--json").json for name in ("s", "s~2")])
    assert_nothing_planted(client.said + api + job_infos(client), sweep.root)


def job_infos(client: Client) -> str:
    """All that the cluster tells of its jobs."""
    program = "from ray.job_submission import JobSubmissionClient as C; print(C(%r).list_jobs())"
    return subprocess.run(
        [sys.executable, "-c", program % client.cluster.dashboard],
        env={**CLEAN, **client.cluster.environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_an_address_with_a_password_stays_and_must_be_known_there(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    sweep, client = Sweep(tmp_path), Client(ray_cluster, tmp_path)
    ended = client.run(
        *("submit", "s.toml", "--name", "refused", "--storage", "mlruns"),
        MLFLOW_TRACKING_URI="http://someone:planted-in-a-url@mlflow.invalid:5000",
    )
    assert ended.code == 2, ended.err
    assert "MLFLOW_TRACKING_URI: http://mlflow.invalid:5000 where it was submitted, not set" in ended.out
    assert client.run("status", "refused", "--json").json["exit_code"] == 2
    assert_nothing_planted(client.said + job_infos(client), tmp_path)
    assert not (sweep.root / "sweeps").exists()


@pytest.mark.parametrize(
    ("token", "says"),
    [({}, "asks for a token"), ({"RAY_AUTH_TOKEN": "f" * 32}, "refuses this token")],
)
def test_without_its_token_no_one_gets_in(
    ray_cluster: RayCluster, tmp_path: Path, token: dict[str, str], says: str
) -> None:
    sweep = Sweep(tmp_path)
    for words in (
        ("submit", "s.toml", "--storage", "mlruns", "--address", ray_cluster.dashboard),
        ("status", "s", "--address", ray_cluster.dashboard),
        ("sweep", "s.toml", "--address", ray_cluster.address),
    ):
        ended = convene(*words, folder=tmp_path, **token)
        assert ended.code == 2, ended.err
        assert says in ended.err
        assert "RAY_AUTH_TOKEN" in ended.err
        assert "Traceback" not in ended.err
    assert not (sweep.root / "sweeps").exists()


def test_a_cluster_of_another_version_is_named(tmp_path: Path) -> None:
    """A real one; what it says of its versions is changed where Ray keeps it."""
    (tmp_path / "nodes").mkdir()
    sweep = Sweep(tmp_path)
    with three_nodes(tmp_path / "nodes") as cluster:
        environment = {**CLEAN, **cluster.environment}
        program = [sys.executable, "-c", OTHER_VERSIONS, cluster.address]
        subprocess.run(program, env=environment, check=True, timeout=60)
        words = ("sweep", "s.toml", "--address", cluster.address)
        ended = convene(*words, folder=tmp_path, **cluster.environment)
    assert ended.code == 2, ended.err
    assert "the cluster has Ray 2.59.1 and Python 3.12.4, here are Ray " in ended.err
    assert "ray==2.59.1" in ended.err
    assert not (sweep.root / "sweeps").exists()
