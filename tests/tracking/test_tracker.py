"""Tracking locations, the tracker's queue, and servers with a login."""

import base64
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from convene.records.trials import TrialView
from convene.storage import Storage
from convene.tracking import experiment, tracker
from convene.tracking.experiment import TrackingLocation
from convene.tracking.tracker import Tracker
from tests.conftest import CLEAN, SMALL_SPACE, convene

PASSWORD = "planted-7f3a-password"

OPEN_NEW = """
import sys, time
from types import SimpleNamespace
from pathlib import Path
import mlflow
from convene.tracking.experiment import TrackingLocation, open_experiment
folder = Path(sys.argv[1])
(folder / f"ready-{sys.argv[2]}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.001)
location = TrackingLocation(f"sqlite:///{folder}/mlflow.db", None)
_, experiment = open_experiment(location, SimpleNamespace(name="digits"))
print(experiment)
"""


@pytest.mark.slow
def test_two_processes_can_open_a_new_database_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_NEW, str(tmp_path), str(number)],
            env={**CLEAN, "MLFLOW_LOGGING_LEVEL": "CRITICAL"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert {out for out, _ in outputs} == {"1\n"}
    assert not [err for _, err in outputs if "Warning" in err or "Online migration" in err]


@pytest.mark.parametrize(
    ("uri", "locked"),
    [
        ("sqlite:///{}/mlflow.db", True),
        ("sqlite:///{}/mlflow.db?timeout=9", True),
        ("sqlite:///{}/not/there/mlflow.db", False),
        ("postgresql://mlflow@127.0.0.1/mlflow", False),
        ("http://127.0.0.1:5000", False),
    ],
)
def test_one_process_at_a_time_opens_a_database(uri: str, locked: bool, tmp_path: Path) -> None:
    lock = tmp_path / "mlflow.db.lock"
    with experiment.database_lock(uri.format(tmp_path)):
        assert lock.exists() == locked
        if locked:
            with lock.open("a") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if locked:
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", ["my runs", "a%20b", "what?", "50%"])
def test_the_storage_root_of_the_database_may_have_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import create_engine

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracker.tracking_location(Storage(str(tmp_path / name))).uri
    (tmp_path / name).mkdir()
    create_engine(uri).connect().close()
    assert [path.name for path in (tmp_path / name).iterdir()] == ["mlflow.db"]
    with experiment.database_lock(uri):
        assert (tmp_path / name / "mlflow.db.lock").exists()


class Runs:
    """A stand-in for `SweepRuns` that fails on some trials; the sweep's own run counts as trial -1."""

    def __init__(self, failing: set[int], error: Exception) -> None:
        self.failing, self.error = failing, error
        self.written: list[int] = []
        self.attempted: list[int] = []
        self.sweep_failures = 0

    def log_sweep(self) -> None:
        if self.sweep_failures:
            self.sweep_failures -= 1
            raise self.error
        self.written.append(-1)

    def forget(self) -> None:
        pass

    def log_trial(self, view: TrialView) -> None:
        self.attempted.append(view.number)
        if view.number in self.failing:
            raise self.error
        self.written.append(view.number)


@pytest.mark.parametrize(
    ("error", "written"),
    [
        (MlflowException("too long", INVALID_PARAMETER_VALUE), [1, 2, 3]),
        (MlflowException("no answer", INTERNAL_ERROR), []),
        (OSError("no route to host"), []),
    ],
)
def test_a_rejected_record_does_not_block_others_and_an_unavailable_mlflow_is_tried_once(
    error: Exception, written: list[int]
) -> None:
    runs = Runs({0} if written else {0, 1, 2, 3}, error)
    tracker = Tracker(runs)  # type: ignore[arg-type]  # has the methods that the tracker uses
    with tracker:
        for number in range(4):
            tracker.log_trial(TrialView(number, {}, started=0.0))
    assert runs.written == [-1, *written]
    assert tracker.waiting == 4 - len(written)
    assert set(runs.attempted) == ({0, 1, 2, 3} if written else {0})


def test_the_sweeps_own_run_is_written_first() -> None:
    runs = Runs(set(), MlflowException("already exists", INVALID_PARAMETER_VALUE))
    runs.sweep_failures = 1
    with Tracker(runs) as tracker:  # type: ignore[arg-type]  # has the methods that the tracker uses
        tracker.log_trial(TrialView(0, {}, started=0.0))
        tracker.flush()  # returns after the failure; the end of the context tries again
    assert runs.written == [-1, 0]
    assert tracker.waiting == 0


@pytest.mark.parametrize(
    ("uri", "redacted"),
    [
        (f"http://me:{PASSWORD}@mlflow.example:5000/a", "http://mlflow.example:5000/a"),
        (f"postgresql://me:{PASSWORD}@db/mlflow", "postgresql://db/mlflow"),
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
    ],
)
def test_no_password_is_shown(uri: str, redacted: str) -> None:
    assert TrackingLocation(uri, None).redacted_uri == redacted
    error = RuntimeError(f"API request to {uri}/api failed with {uri}\nmore")
    expected = f"RuntimeError: API request to {redacted}/api failed with {redacted}"
    assert experiment.first_line(error) == expected


# --- A login -----------------------------------------------------------------------------------------


class Guarded(BaseHTTPRequestHandler):
    """Rejects requests as MLflow's own login does, except for the health page."""

    def do_GET(self) -> None:
        healthy = self.path == "/health"
        self.send_response(200 if healthy else 401)
        self.end_headers()
        self.wfile.write(b"OK" if healthy else b"You are not authenticated.")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def guarded() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Guarded)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_with_a_login_is_reported_with_the_variables_to_set(guarded: str, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(SMALL_SPACE)
    uri = f"http://me:{PASSWORD}@{guarded}"
    ended = convene("sweep", "space.toml", folder=tmp_path, MLFLOW_TRACKING_URI=uri)
    assert ended.code == 2
    assert f"MLFLOW_TRACKING_URI = http://{guarded}: the server rejects this login" in ended.err
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in ended.err
    assert PASSWORD not in ended.err + ended.out
    assert not list(tmp_path.glob("mlruns/*"))


@contextmanager
def guarded_mlflow(folder: Path, port: int) -> Iterator[str]:
    """Run MLflow's server with its own login, for the user `admin`."""
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        "admin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--app-name", "basic-auth"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", (folder / "artifacts").as_uri()]
    secrets = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for a test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine more processes, for language models
    }
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, env={**CLEAN, **secrets}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_for_login(uri)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # nothing reads its files any more
        server.wait(timeout=30)


def wait_for_login(uri: str) -> None:
    login = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    address = f"{uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
    for _ in range(240):
        try:
            request = urllib.request.Request(address, headers={"Authorization": f"Basic {login}"})
            urllib.request.urlopen(request, timeout=20).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not start")


@pytest.mark.cluster
def test_a_wrong_login_is_rejected_and_a_right_one_is_recorded_nowhere(tmp_path: Path) -> None:
    pytest.importorskip("flask_wtf", reason="MLflow's login needs it")
    (tmp_path / "space.toml").write_text(SMALL_SPACE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    small = ("--trials", "2", "--set", "training.epochs=1", "--set", "training.learning_rate=0.05")
    with guarded_mlflow(tmp_path, port) as uri:
        none = convene("sweep", "space.toml", folder=tmp_path, MLFLOW_TRACKING_URI=uri)
        wrong = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "not it"}
        rejected = convene("sweep", "space.toml", folder=tmp_path, MLFLOW_TRACKING_URI=uri, **wrong)
        assert (none.code, rejected.code) == (2, 2)
        assert "requires a login" in none.err
        assert "rejects this login" in rejected.err
        assert not (tmp_path / "mlruns/sweeps").exists()
        right = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        ended = convene(
            "sweep", "space.toml", *small, "--json", folder=tmp_path, MLFLOW_TRACKING_URI=uri, **right
        )
        page = convene("ui", "space", "--json", folder=tmp_path, MLFLOW_TRACKING_URI=uri, **right)
    assert ended.code == 0, ended.err
    assert ended.json["mlflow"]["waiting"] == 0
    assert f"/runs/{ended.json['mlflow']['run_id']}?" in page.json["url"]
    written = [file for file in (tmp_path / "mlruns").rglob("*") if file.is_file()]
    assert not [file for file in written if PASSWORD.encode() in file.read_bytes()]
    assert PASSWORD not in ended.out + ended.err + page.out
