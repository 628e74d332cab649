"""Real servers for tests: an object store, a database, MLflow. Each has its own port."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CLEAN


def free_port() -> int:
    """Return a port on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def running(command: list[str], port: int, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a server until the end of the context. Wait first until its port answers."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 90
            while not answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    pytest.fail(f"{command}: {log.read().decode()[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


@dataclass(frozen=True)
class ObjectStore:
    """Moto's S3 server, which stores objects in memory."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables for pyarrow and boto. Machine roles are disabled: they would need an external request."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self) -> str:
        """Create a bucket and return its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        urllib.request.urlopen(request).close()
        return name


@contextmanager
def object_store(**environment: str) -> Iterator[ObjectStore]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port, {**CLEAN, "AWS_EC2_METADATA_DISABLED": "true", **environment}):
        yield ObjectStore(f"http://127.0.0.1:{port}")


@contextmanager
def postgres(*others: str) -> Iterator[str]:
    """Run a new PostgreSQL with the databases `convene` and `others`, and yield the URL of `convene`."""
    tools = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    if tools is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory() as folder:
        data, secret, port = Path(folder, "data"), Path(folder, "secret"), free_port()
        secret.write_text("pass-for-tests")
        user: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            account = pwd.getpwnam("postgres")
            for path in (Path(folder), secret):
                shutil.chown(path, account.pw_uid, account.pw_gid)
            user = {"user": "postgres"}
        created = subprocess.run(
            [tools / "initdb", "-D", data, "-U", "convene", "-A", "scram-sha-256", "--pwfile", secret],
            capture_output=True,
            check=False,
            **user,
        )
        assert created.returncode == 0, created.stderr.decode()
        options = ["-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        process = subprocess.Popen(
            [tools / "postgres", "-D", data, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **user,
        )
        try:
            login = {**CLEAN, "PGPASSWORD": "pass-for-tests"}
            create = ["createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "convene", "convene"]
            deadline = time.monotonic() + 60
            while subprocess.run(create, env=login, capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline, "PostgreSQL does not answer"
                time.sleep(0.3)
            for name in others:
                subprocess.run([*create[:-1], name], env=login, check=True)
            yield f"postgresql+psycopg2://convene:pass-for-tests@127.0.0.1:{port}/convene"
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def mlflow_server(backend: str, artifacts: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Run MLflow's server and yield its URL."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", backend, "--artifacts-destination", artifacts]
    # Job execution starts nine more processes, for language models.
    jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with running(command, port, {**CLEAN, **jobs, **environment}):
        yield f"http://127.0.0.1:{port}"
