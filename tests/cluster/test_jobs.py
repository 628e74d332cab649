"""Jobs on a cluster: their packages, names, states, logs, and the checks before them."""

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
from convene.cluster.jobs import Job, JobServer, LogReader
from convene.config import search_space
from convene.errors import InputError, WorkError
from convene.records.sweep_name import numbered

SPACE = '[data]\nsource = "digits"\n[network]\nwidth = { choices = [4, 8] }\n[search]\ntrials = 2\n'


# --- The package of a job ----------------------------------------------------------------------------


def test_a_job_takes_the_package_and_the_search_space_only(tmp_path: Path) -> None:
    space = search_space.parse(SPACE, {"search.trials": 7, "network.width": 16})
    job_package.build_working_dir(space, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["convene", "search_space.toml"]
    assert search_space.read(tmp_path / "search_space.toml") == space
    there = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    package = Path(job_package.__file__).parents[1]
    here = {path.relative_to(package.parent) for path in package.rglob("*") if path.is_file()}
    assert there - {Path("search_space.toml")} == {path for path in here if "__pycache__" not in path.parts}
    assert sum((tmp_path / path).stat().st_size for path in there) < 2e6


def test_a_job_that_resumes_a_sweep_takes_no_search_space(tmp_path: Path) -> None:
    job_package.build_working_dir(None, tmp_path)
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
def test_a_path_to_data_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "digits", "mnist"):
        (tmp_path / folder).mkdir()
    space = job_package.resolve_data_path(search_space.parse(SPACE, {"data.source": source}))
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
def test_a_storage_root_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_package.resolve_storage(storage) == expected.format(here=tmp_path)


@pytest.mark.parametrize("storage", ["s3://key:hidden@bucket/x", "s3://bucket/x?secret_key=hidden"])
def test_a_credential_in_the_storage_root_is_rejected(storage: str) -> None:
    with pytest.raises(InputError, match=r"s3://bucket/x: contains a credential") as raised:
        job_package.resolve_storage(storage)
    assert "hidden" not in str(raised.value)


def test_the_entrypoint_is_one_process_and_quoted() -> None:
    entrypoint = job_package.entrypoint(["sweep", "search_space.toml", "--storage", "/nfs/my runs; rm"])
    assert entrypoint == (
        "exec python -m convene.cluster.job_entrypoint sweep search_space.toml --storage '/nfs/my runs; rm'"
    )


def test_addresses_are_sent_and_credentials_are_not() -> None:
    variables = {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "OPTUNA_STORAGE": "postgresql://user:hidden@postgres/optuna",
        "AWS_ENDPOINT_URL": "http://s3:9000",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_ACCESS_KEY_ID": "hidden",
        "MLFLOW_TRACKING_PASSWORD": "hidden",
        "RAY_AUTH_TOKEN": "hidden",
        "HOME": "/home/someone",
    }
    sent = job_package.environment_variables(variables)
    assert "hidden" not in json.dumps(sent)
    assert sent.keys() == {
        *("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"),
        *(job_entrypoint.SUBMISSION_VARIABLE, "RAY_JOB_STOP_WAIT_TIME_S"),
    }
    submitted = json.loads(sent[job_entrypoint.SUBMISSION_VARIABLE])
    assert submitted["addresses"] == {"OPTUNA_STORAGE": "postgresql://postgres/optuna"}
    assert submitted["versions"] == environment.comparable_versions()


# --- On the cluster ----------------------------------------------------------------------------------

PINNED = {"python": "3.11", "torch": "2.13.0", "ray": "2.60.0"}
OPTUNA = {"OPTUNA_STORAGE": "postgresql://postgres/optuna"}


@pytest.mark.parametrize(
    ("here", "variables", "parts"),
    [
        (PINNED, {"OPTUNA_STORAGE": "postgresql://u:pw@postgres/optuna"}, []),
        (
            PINNED | {"torch": "2.9.1"},
            {},
            ["torch: 2.13.0 on the submitting machine, 2.9.1 on the cluster", "pip install torch==2.13.0"],
        ),
        (PINNED | {"torch": ""}, {}, ["torch: 2.13.0 on the submitting machine, none on the cluster"]),
        (PINNED | {"python": "3.12"}, {}, ["python: 3.11", "3.12 on the cluster", "Python 3.11"]),
        (PINNED, {}, ["OPTUNA_STORAGE: postgresql://postgres/optuna on", "not set on the cluster"]),
        (
            PINNED,
            {"OPTUNA_STORAGE": "postgresql://u:hidden@another/optuna"},
            ["postgresql://another/optuna on the cluster"],
        ),
    ],
)
def test_a_different_environment_is_reported_with_what_to_do(
    here: dict[str, str], variables: dict[str, str], parts: list[str]
) -> None:
    submitted = {"versions": PINNED, "addresses": OPTUNA}
    error = job_entrypoint.environment_error(submitted, here, variables)
    assert (error is None) == (not parts)
    for part in parts:
        assert part in (error or "")
    assert "hidden" not in (error or "")


def test_a_different_environment_ends_the_job_before_any_library_is_imported(tmp_path: Path) -> None:
    """Python runs isolated and without site-packages, as on a cluster that has none of the libraries."""
    shutil.copytree(Path(job_entrypoint.__file__).parents[1], tmp_path / "convene")
    program = "import sys; sys.path.insert(0, '.'); from convene.cluster.job_entrypoint import main; main()"
    submitted = {"versions": environment.comparable_versions(), "addresses": {}}
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        cwd=tmp_path,
        env={job_entrypoint.SUBMISSION_VARIABLE: json.dumps(submitted)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2, ended.stderr
    assert re.search(r"torch: \S+ on the submitting machine, none on the cluster", ended.stderr)
    assert "Traceback" not in ended.stderr


def test_builds_of_one_version_are_equal() -> None:
    here = environment.comparable_versions()
    assert all("+" not in version for version in here.values())
    assert here["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert environment.differences(here, dict(here)) == {}


# --- Names and states --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "expected"),
    [(set(), "s"), ({"t"}, "s"), ({"s"}, "s-2"), ({"s", "s-2", "s-3"}, "s-4"), ({"s", "s-3"}, "s-2")],
)
def test_a_taken_name_gets_a_number(taken: set[str], expected: str) -> None:
    assert numbered("s", taken.__contains__) == expected


@pytest.mark.parametrize(
    ("state", "exit_code", "final_exit_code", "reserves_name"),
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
    state: str, exit_code: int | None, final_exit_code: int, reserves_name: bool
) -> None:
    job = Job("s", "s", state, exit_code, None, None, None, None)
    assert (job.final_exit_code, job.reserves_name) == (final_exit_code, reserves_name)


class FakeClient:
    """Ray's client of a dashboard with some jobs."""

    def __init__(self, *jobs: tuple[str, str, str]) -> None:
        self.details = [
            SimpleNamespace(
                submission_id=job_id,
                status=SimpleNamespace(value=state),
                metadata={"sweep": name, "storage": "s3://bucket/runs"},
                driver_exit_code=0 if state == "SUCCEEDED" else None,
                start_time=1000 + index,
                end_time=None,
                message=None,
            )
            for index, (job_id, name, state) in enumerate(jobs)
        ]
        self.submitted: dict[str, Any] = {}

    def list_jobs(self) -> list[Any]:
        return self.details

    def submit_job(self, **job: Any) -> None:
        self.submitted = job
        self.details += FakeClient((job["submission_id"], job["metadata"]["sweep"], "RUNNING")).details
        self.details[-1].start_time = 2000


def make_server(client: Any) -> JobServer:
    server = object.__new__(JobServer)  # without the checks of its address
    server.address, server._client = "http://head:8265", client
    return server


def test_a_name_means_a_sweep_and_an_id_means_one_job() -> None:
    server = make_server(FakeClient(("m", "m", "STOPPED"), ("m~2", "m", "STOPPED"), ("t", "t", "RUNNING")))
    assert server.find("m").id == "m~2"
    assert server._refreshed("m").id == "m"
    with pytest.raises(InputError, match="sweep t: job t has not ended"):
        server.resume("t", "resume", [], None)
    assert server.resume("m~2", "resume", ["--json"], None).id == "m~3"
    submitted = server._client.submitted  # type: ignore[attr-defined]
    assert submitted["metadata"]["sweep"] == "m"
    assert "resume m --json --storage s3://bucket/runs" in submitted["entrypoint"]


def test_a_new_name_is_free_on_the_cluster_and_in_the_storage(tmp_path: Path) -> None:
    (tmp_path / "sweeps/my-digits").mkdir(parents=True)
    client = FakeClient(("my-digits-2", "my-digits-2", "STOPPED"))
    space = search_space.parse("[network]\ndepth = 1")
    assert make_server(client).submit(space, None, "my digits", str(tmp_path)).name == "my-digits-3"


class QuietClient(FakeClient):
    """A client whose log is silent for an hour per connection. The first `broken` connections are lost.

    Then the job ends, or the cluster is `unreachable`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: int, unreachable: bool) -> None:
        super().__init__(("m", "m", "RUNNING"))
        self.broken, self.unreachable, self.now = broken, unreachable, 0.0
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
        if self.unreachable and self.broken < 0:
            raise ConnectionError("refused")
        return super().list_jobs()


def test_a_quiet_log_is_followed_across_lost_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    server = make_server(QuietClient(monkeypatch, broken=3, unreachable=False))
    assert server.follow(server.find("m"), written.append).state == "SUCCEEDED"
    assert "".join(written) == "trial 0 COMPLETE\n"


def test_an_error_on_writing_the_log_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(text: str) -> None:
        raise BrokenPipeError

    server = make_server(QuietClient(monkeypatch, broken=0, unreachable=False))
    with pytest.raises(BrokenPipeError):
        server.follow(server.find("m"), write)


def test_following_an_unreachable_cluster_fails_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_server(QuietClient(monkeypatch, broken=1, unreachable=True))
    with pytest.raises(WorkError, match=r"no longer answers: .*refused"):
        server.follow(server.find("m"), lambda text: None)


@settings(deadline=None)  # a busy machine may pause for seconds
@given(st.lists(st.text(max_size=4)), st.lists(st.integers(0, 20)), st.randoms(use_true_random=False))
def test_every_part_of_a_log_is_returned_once_in_spite_of_restarts(
    lines: list[str], cuts: list[int], random: Random
) -> None:
    log = "".join(lines)
    text, reader = "", LogReader()
    for end in [*(min(cut, len(log)) for cut in cuts), len(log)]:
        reader.restart()
        position = 0
        while position < end:
            step = random.randint(1, end - position)
            text += reader.new_text(log[position : position + step])
            position += step
    assert text == log


# --- Authentication ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {}),
        ({"RAY_AUTH_MODE": "token"}, {"Authorization": "Bearer from-the-file"}),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine"}, {"Authorization": "Bearer mine"}),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "~/other"}, {"Authorization": "Bearer another"}),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/nowhere"}, {}),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "mine"}, {}),
    ],
)
def test_the_token_is_sent_in_token_mode_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: dict[str, str]
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("from-the-file\n")
    (tmp_path / "other").write_text("another")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert auth.headers() == expected


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Run a server with a fixed answer, such as that of another version of Ray. Yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # as the library calls it
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (
            200,
            b'{"version": "4", "ray_version": "2.9.3"}',
            "the cluster runs Ray 2.9.3, but this machine runs Ray ",
        ),
        (200, b"<html>MLflow</html>", "not a Ray dashboard"),
        (200, b'{"version": "4"}', "not a Ray dashboard"),
        (404, b"", "not a Ray dashboard: answers with status 404"),
        (401, b"", "requires a token: `ray get-auth-token`"),
        (403, b"", "requires a token"),
    ],
)
def test_an_unusable_dashboard_is_rejected(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, message: str
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with answering(status, body) as url, pytest.raises(InputError, match=re.escape(message)) as raised:
        dashboard.resolve_address(url)
    assert url in str(raised.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:6379", "jobs are submitted to the cluster's dashboard, http://HEAD:8265"),
        ("ray://127.0.0.1:10001", "jobs are submitted to the cluster's dashboard, http://HEAD:8265"),
        ("http://[abc", "jobs are submitted to the cluster's dashboard, http://HEAD:8265"),
        ("http://", "jobs are submitted to the cluster's dashboard, http://HEAD:8265"),
        ("http://user:hidden@127.0.0.1:1", "http://127.0.0.1:1: must not contain a password"),
        ("http://127.0.0.1:1", "no Ray dashboard answers: Connection refused"),
        (None, "--address: missing; it is the URL"),
    ],
)
def test_an_address_that_is_no_dashboard_is_rejected(
    monkeypatch: pytest.MonkeyPatch, address: str | None, message: str
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        dashboard.resolve_address(address)
    assert "hidden" not in str(raised.value)


def test_a_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match="no Ray dashboard answers: timed out"):
            dashboard.resolve_address(url)
