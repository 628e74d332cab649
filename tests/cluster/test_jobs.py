"""What travels to a cluster, under what name, and what is said where it does not fit."""

import http.server
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convene import environment
from convene.cluster import auth, dashboard, job_entrypoint, job_package
from convene.cluster.jobs import Job, JobServer, Retold
from convene.config import search_space
from convene.errors import InputError, WorkError
from convene.records.sweep_record import numbered

SPACE = '[data]\nsource = "digits"\n[network]\nwidth = { choices = [4, 8] }\n[search]\ntrials = 2\n'


# --- What travels ------------------------------------------------------------------------------------


def test_the_package_and_the_search_space_travel_and_nothing_else(tmp_path: Path) -> None:
    space = search_space.parse(SPACE, {"search.trials": 7, "network.width": 16})
    job_package.pack(space, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["convene", "search_space.toml"]
    assert search_space.read(tmp_path / "search_space.toml") == space
    there = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    package = Path(job_package.__file__).parents[1]
    here = {path.relative_to(package.parent) for path in package.rglob("*") if path.is_file()}
    assert there - {Path("search_space.toml")} == {path for path in here if "__pycache__" not in path.parts}
    assert sum((tmp_path / path).stat().st_size for path in there) < 2e6


def test_what_goes_on_with_a_sweep_needs_no_search_space(tmp_path: Path) -> None:
    job_package.pack(None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["convene"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("digits", "digits"),
        ("mnist", "mnist"),
        ("images", "{here}/images"),
        ("./images", "{here}/images"),
        ("/data/images", "/data/images"),
        ("s3://bucket/images", "s3://bucket/images"),
        ("not-here", "not-here"),
    ],
)
def test_a_path_to_data_is_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "digits", "mnist"):
        (tmp_path / folder).mkdir()
    space = job_package.at_home(search_space.parse(SPACE, {"data.source": source}))
    assert space.base.data.source == expected.format(here=tmp_path)


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        ("runs", "{here}/runs"),
        ("/shared/runs", "/shared/runs"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://bucket/prefix?region=eu-west-1", "s3://bucket/prefix?region=eu-west-1"),
    ],
)
def test_the_cluster_is_told_a_whole_storage_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_package.place(storage) == expected.format(here=tmp_path)


@pytest.mark.parametrize("storage", ["s3://key:hidden@bucket/x", "s3://bucket/x?secret_key=hidden"])
def test_a_credential_in_the_storage_root_is_refused(storage: str) -> None:
    with pytest.raises(InputError, match=r"s3://bucket/x: holds a credential") as refused:
        job_package.place(storage)
    assert "hidden" not in str(refused.value)


def test_the_command_is_one_process_and_quoted() -> None:
    command = job_package.command(["sweep", "search_space.toml", "--storage", "/nfs/my runs; rm"])
    assert command == (
        "exec python -m convene.cluster.job_entrypoint sweep search_space.toml --storage '/nfs/my runs; rm'"
    )


def test_places_travel_and_credentials_stay() -> None:
    here = {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "OPTUNA_STORAGE": "postgresql://user:hidden@postgres/optuna",
        "AWS_ENDPOINT_URL": "http://s3:9000",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_ACCESS_KEY_ID": "hidden",
        "MLFLOW_TRACKING_PASSWORD": "hidden",
        "RAY_AUTH_TOKEN": "hidden",
        "HOME": "/home/someone",
    }
    sent = job_package.environment_variables(here)
    assert "hidden" not in json.dumps(sent)
    assert sent.keys() == {
        *("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"),
        *(job_entrypoint.SUBMITTED, "RAY_JOB_STOP_WAIT_TIME_S"),
    }
    submitted = json.loads(sent[job_entrypoint.SUBMITTED])
    assert submitted["addresses"] == {"OPTUNA_STORAGE": "postgresql://postgres/optuna"}
    assert submitted["versions"] == environment.comparable()


# --- On the cluster ----------------------------------------------------------------------------------

PINNED = {"python": "3.11", "torch": "2.13.0", "ray": "2.60.0"}
OPTUNA = {"OPTUNA_STORAGE": "postgresql://postgres/optuna"}


@pytest.mark.parametrize(
    ("here", "environment", "says"),
    [
        (PINNED, {"OPTUNA_STORAGE": "postgresql://u:pw@postgres/optuna"}, []),
        (
            PINNED | {"torch": "2.9.1"},
            {},
            ["torch: 2.13.0 where it was submitted, 2.9.1 on the cluster", "pip install torch==2.13.0"],
        ),
        (PINNED | {"torch": ""}, {}, ["torch: 2.13.0 where it was submitted, none on the cluster"]),
        (PINNED | {"python": "3.12"}, {}, ["python: 3.11", "3.12 on the cluster", "Python 3.11"]),
        (PINNED, {}, ["OPTUNA_STORAGE: postgresql://postgres/optuna where", "not set on the cluster"]),
        (
            PINNED,
            {"OPTUNA_STORAGE": "postgresql://u:hidden@another/optuna"},
            ["postgresql://another/optuna on the cluster"],
        ),
    ],
)
def test_another_environment_is_named_with_what_to_do(
    here: dict[str, str], environment: dict[str, str], says: list[str]
) -> None:
    wrong = job_entrypoint.misfit({"versions": PINNED, "addresses": OPTUNA}, here, environment)
    assert (wrong is None) == (not says)
    for part in says:
        assert part in (wrong or "")
    assert "hidden" not in (wrong or "")


def test_a_difference_ends_the_job_before_anything_is_loaded(tmp_path: Path) -> None:
    """As on a cluster whose Python has none of the libraries: isolated, and without site-packages."""
    shutil.copytree(Path(job_entrypoint.__file__).parents[1], tmp_path / "convene")
    program = "import sys; sys.path.insert(0, '.'); from convene.cluster.job_entrypoint import main; main()"
    submitted = {"versions": environment.comparable(), "addresses": {}}
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        cwd=tmp_path,
        env={job_entrypoint.SUBMITTED: json.dumps(submitted)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2, ended.stderr
    assert re.search(r"torch: \S+ where it was submitted, none on the cluster", ended.stderr)
    assert "Traceback" not in ended.stderr


def test_builds_of_one_version_are_the_same() -> None:
    here = environment.comparable()
    assert all("+" not in version for version in here.values())
    assert here["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert environment.differences(here, dict(here)) == {}


# --- Names and states --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "expected"),
    [(set(), "s"), ({"t"}, "s"), ({"s"}, "s-2"), ({"s", "s-2", "s-3"}, "s-4"), ({"s", "s-3"}, "s-2")],
)
def test_a_free_name_is_the_files_or_numbered(taken: set[str], expected: str) -> None:
    assert numbered("s", taken.__contains__) == expected


@pytest.mark.parametrize(
    ("state", "exit_code", "outcome", "holds_name"),
    [
        ("SUCCEEDED", 0, 0, True),
        ("FAILED", 1, 1, True),
        ("FAILED", 2, 2, False),
        ("FAILED", 130, 130, True),
        ("FAILED", -9, 1, True),
        ("FAILED", None, 1, True),
        ("STOPPED", None, 130, True),
        ("RUNNING", None, 1, True),
    ],
)
def test_a_job_ends_with_the_exit_code_of_its_command(
    state: str, exit_code: int | None, outcome: int, holds_name: bool
) -> None:
    job = Job("s", "s", state, exit_code, None, None, None, None)
    assert (job.outcome, job.holds_name) == (outcome, holds_name)


class Cluster:
    """A dashboard that knows some jobs; a connection to a log lasts as long as it is told to."""

    def __init__(self, *jobs: tuple[str, str, str]) -> None:
        self.details = [
            SimpleNamespace(
                submission_id=identity,
                status=SimpleNamespace(value=state),
                metadata={"sweep": name, "storage": "s3://bucket/runs"},
                driver_exit_code=0 if state == "SUCCEEDED" else None,
                start_time=1000 + place,
                end_time=None,
                message=None,
            )
            for place, (identity, name, state) in enumerate(jobs)
        ]
        self.submitted: dict[str, Any] = {}

    def list_jobs(self) -> list[Any]:
        return self.details

    def submit_job(self, **job: Any) -> None:
        self.submitted = job
        self.details += Cluster((job["submission_id"], job["metadata"]["sweep"], "RUNNING")).details
        self.details[-1].start_time = 2000


def server(cluster: Any) -> JobServer:
    made = object.__new__(JobServer)  # without asking who is there
    made.address, made._client = "http://head:8265", cluster
    return made


def test_a_name_is_of_the_sweep_and_an_id_of_one_job() -> None:
    there = server(Cluster(("m", "m", "STOPPED"), ("m~2", "m", "STOPPED"), ("t", "t", "RUNNING")))
    assert there.find("m").id == "m~2"
    assert there._now("m").id == "m"
    with pytest.raises(InputError, match="job t is at work on sweep t"):
        there.resume("t", "resume", [], None)
    assert there.resume("m~2", "resume", ["--json"], None).id == "m~3"
    told = there._client.submitted  # type: ignore[attr-defined]
    assert told["metadata"]["sweep"] == "m"
    assert "resume m --json --storage s3://bucket/runs" in told["entrypoint"]


def test_a_free_name_is_one_of_the_cluster_and_of_the_storage(tmp_path: Path) -> None:
    (tmp_path / "sweeps/my-digits").mkdir(parents=True)
    cluster = Cluster(("my-digits-2", "my-digits-2", "STOPPED"))
    space = search_space.parse("[network]\ndepth = 1")
    assert server(cluster).submit(space, None, "my digits", str(tmp_path)).name == "my-digits-3"


class Quiet(Cluster):
    """Its log says nothing for an hour; the first connections to it break, and then it ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: int, away: bool) -> None:
        super().__init__(("m", "m", "RUNNING"))
        self.broken, self.away, self.now = broken, away, 0.0
        monkeypatch.setattr("convene.cluster.jobs.time.monotonic", lambda: self.now)

        async def sleep(seconds: float) -> None:
            self.now += seconds

        monkeypatch.setattr("convene.cluster.jobs.asyncio.sleep", sleep)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.now += 3600
        self.broken -= 1
        if self.broken >= 0:
            raise OSError("connection lost")
        self.details[0].status.value = "SUCCEEDED"
        yield "trial 0 COM"

    def get_job_logs(self, job: str) -> str:
        return "trial 0 COMPLETE\n"

    def list_jobs(self) -> list[Any]:
        if self.away and self.broken < 0:
            raise ConnectionError("refused")
        return super().list_jobs()


def test_a_log_that_was_quiet_is_followed_through_lost_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    there = server(Quiet(monkeypatch, broken=3, away=False))
    assert there.follow(there.find("m"), told.append).state == "SUCCEEDED"
    assert "".join(told) == "trial 0 COMPLETE\n"


def test_who_cannot_write_the_log_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(text: str) -> None:
        raise BrokenPipeError

    there = server(Quiet(monkeypatch, broken=0, away=False))
    with pytest.raises(BrokenPipeError):
        there.follow(there.find("m"), closed)


def test_a_cluster_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    there = server(Quiet(monkeypatch, broken=1, away=True))
    with pytest.raises(WorkError, match=r"does not answer any more: .*refused"):
        there.follow(there.find("m"), lambda text: None)


@settings(deadline=None)  # a machine with other work stops for seconds
@given(st.lists(st.text(max_size=4)), st.lists(st.integers(0, 20)), st.randoms(use_true_random=False))
def test_a_log_is_written_once_however_often_it_is_begun_again(
    lines: list[str], cuts: list[int], chance: Random
) -> None:
    log = "".join(lines)
    told, retold = "", Retold()
    for end in [*(min(cut, len(log)) for cut in cuts), len(log)]:
        retold.begin()
        place = 0
        while place < end:
            step = chance.randint(1, end - place)
            told += retold.new_in(log[place : place + step])
            place += step
    assert told == log


# --- Getting in --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {}),
        ({"RAY_AUTH_MODE": "token"}, {"Authorization": "Bearer of-the-file"}),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine"}, {"Authorization": "Bearer mine"}),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "~/other"}, {"Authorization": "Bearer another"}),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/nowhere"}, {}),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "mine"}, {}),
    ],
)
def test_a_token_goes_only_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: dict[str, str]
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("of-the-file\n")
    (tmp_path / "other").write_text("another")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert auth.bearer() == expected


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """The address of a server that says the same to everyone. It stands for a Ray of another version."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # as the library calls it
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b'{"version": "4", "ray_version": "2.9.3"}', "the cluster has Ray 2.9.3, here is Ray "),
        (200, b"<html>MLflow</html>", "no Ray dashboard"),
        (200, b'{"version": "4"}', "no Ray dashboard"),
        (404, b"", "no Ray dashboard: answers 404"),
        (401, b"", "asks for a token: `ray get-auth-token`"),
        (403, b"", "asks for a token"),
    ],
)
def test_what_is_no_dashboard_of_ours_is_refused(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, says: str
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with answering(status, body) as url, pytest.raises(InputError, match=re.escape(says)) as refused:
        dashboard.address(url)
    assert url in str(refused.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:6379", "jobs are taken at http://HEAD:8265"),
        ("ray://127.0.0.1:10001", "jobs are taken at http://HEAD:8265"),
        ("http://[abc", "jobs are taken at http://HEAD:8265"),
        ("http://", "jobs are taken at http://HEAD:8265"),
        ("http://user:hidden@127.0.0.1:1", "http://127.0.0.1:1: must hold no password"),
        ("http://127.0.0.1:1", "no Ray dashboard answers: Connection refused"),
        (None, "--address: which cluster?"),
    ],
)
def test_an_address_that_cannot_take_jobs_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str | None, says: str
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=re.escape(says)) as refused:
        dashboard.address(address)
    assert "hidden" not in str(refused.value)


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "_ANSWER_WITHIN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match="no Ray dashboard answers: timed out"):
            dashboard.address(url)
