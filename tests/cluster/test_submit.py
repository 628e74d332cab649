"""A sweep on a real cluster: it outlives its client, is stopped and resumed, and shows no credential."""

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
    """A user of the command who has the cluster's token and other secrets."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.environment = {**cluster.environment, **SECRETS}
        self.output = ""

    def run(self, *arguments: str, **environment: str) -> Ended:
        address = ("--address", self.cluster.dashboard)
        ended = convene(*arguments, *address, folder=self.folder, **{**self.environment, **environment})
        self.output += ended.out + ended.err
        return ended

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "convene.cli", *arguments, "--address", self.cluster.dashboard]
        environment = {**CLEAN, **self.environment}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True
        )


def test_a_sweep_outlives_its_client_and_resumes_after_a_stop(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    sweep, client = Sweep(tmp_path), Client(ray_cluster, tmp_path)
    process = client.start("submit", "s.toml", "--trials", "6", "--storage", "mlruns")
    wait_for(lambda: sweep.epochs() > 2 or process.poll() is not None, 180)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    client.output += out + err
    assert process.returncode == 130, client.output
    assert "disk: " in out  # the sweep's own output
    assert f"convene logs s --address {ray_cluster.dashboard}" in err

    status = client.run("status", "s", "--json").json
    assert (status["state"], status["storage"]) == ("RUNNING", str(sweep.root))
    again = client.run("submit", "s.toml", "--name", "s", "--storage", "mlruns")
    assert (again.code, "already has a job with this name" in again.err) == (2, True), again.err
    again = client.run("submit", "s")
    assert (again.code, "sweep s: job s has not ended" in again.err) == (2, True), again.err

    before = sweep.epochs()
    wait_for(lambda: sweep.epochs() > before)
    stopped = client.run("stop", "s")
    assert stopped.code == 0, stopped.err
    assert "job s: STOPPED" in stopped.out
    assert f"convene submit s --address {ray_cluster.dashboard}" in stopped.out
    with sqlite3.connect(sweep.root / "mlflow.db") as connection:
        assert "RUNNING" not in {status for (status,) in connection.execute("select status from runs")}
    log = client.run("logs", "s", "--json").json["log"]
    assert "interrupted; continue with" in log
    client.output += log

    ended = client.run("submit", "s", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["id"], ended.json["state"], ended.json["exit_code"]) == ("s~2", "SUCCEEDED", 0)
    assert sum(ended.json["result"]["states"].values()) == 6
    sweep.check(trials=6)
    assert client.run("logs", "s").out.count('"test_reads": 1') == 1

    more = client.run("submit", "s.toml", "--storage", "mlruns", "--trials", "0")
    assert (more.code, "--trials 0" in more.err) == (2, True), more.err
    api = json.dumps([client.run("status", name, "--json").json for name in ("s", "s~2")])
    assert_nothing_planted(client.output + api + job_infos(client), sweep.root)


def job_infos(client: Client) -> str:
    """Return everything that the cluster shows of its jobs."""
    program = "from ray.job_submission import JobSubmissionClient as C; print(C(%r).list_jobs())"
    return subprocess.run(
        [sys.executable, "-c", program % client.cluster.dashboard],
        env={**CLEAN, **client.cluster.environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_an_address_with_a_password_is_not_sent_and_must_be_set_on_the_cluster(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    sweep, client = Sweep(tmp_path), Client(ray_cluster, tmp_path)
    ended = client.run(
        *("submit", "s.toml", "--name", "refused", "--storage", "mlruns"),
        MLFLOW_TRACKING_URI="http://someone:planted-in-a-url@mlflow.invalid:5000",
    )
    assert ended.code == 2, ended.err
    assert "MLFLOW_TRACKING_URI: http://mlflow.invalid:5000 on the submitting machine, not set" in ended.out
    assert client.run("status", "refused", "--json").json["exit_code"] == 2
    assert_nothing_planted(client.output + job_infos(client), tmp_path)
    assert not (sweep.root / "sweeps").exists()


@pytest.mark.parametrize(
    ("token", "message"),
    [({}, "requires a token"), ({"RAY_AUTH_TOKEN": "f" * 32}, "rejects this token")],
)
def test_a_missing_or_wrong_token_is_rejected(
    ray_cluster: RayCluster, tmp_path: Path, token: dict[str, str], message: str
) -> None:
    sweep = Sweep(tmp_path)
    for arguments in (
        ("submit", "s.toml", "--storage", "mlruns", "--address", ray_cluster.dashboard),
        ("status", "s", "--address", ray_cluster.dashboard),
        ("sweep", "s.toml", "--address", ray_cluster.address),
    ):
        ended = convene(*arguments, folder=tmp_path, **token)
        assert ended.code == 2, ended.err
        assert message in ended.err
        assert "RAY_AUTH_TOKEN" in ended.err
        assert "Traceback" not in ended.err
    assert not (sweep.root / "sweeps").exists()


def test_a_cluster_with_other_versions_is_rejected(tmp_path: Path) -> None:
    """A real cluster, with changed versions in Ray's own metadata."""
    (tmp_path / "nodes").mkdir()
    sweep = Sweep(tmp_path)
    with three_nodes(tmp_path / "nodes") as cluster:
        environment = {**CLEAN, **cluster.environment}
        program = [sys.executable, "-c", OTHER_VERSIONS, cluster.address]
        subprocess.run(program, env=environment, check=True, timeout=60)
        arguments = ("sweep", "s.toml", "--address", cluster.address)
        ended = convene(*arguments, folder=tmp_path, **cluster.environment)
    assert ended.code == 2, ended.err
    assert "the cluster runs Ray 2.59.1 and Python 3.12.4, but this machine runs Ray " in ended.err
    assert "ray==2.59.1" in ended.err
    assert not (sweep.root / "sweeps").exists()
