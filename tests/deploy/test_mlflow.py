"""MLflow's server as compose.yaml starts it, on a real PostgreSQL and an S3 server: its access control."""

import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.conftest import CLEAN
from tests.support.servers import ObjectStore, free_port, object_store, postgres, running

pytestmark = pytest.mark.cluster

FOLDER = Path(__file__).parents[2] / "deploy/mlflow"
SERVICE = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["mlflow"]
PASSWORD = "a-password-for-tests"


def fill_in(text: str, port: int, database: str) -> str:
    """Return the text with defaults filled in as by Compose, and with the addresses of this test."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    return text.replace("convene@postgres/", f"convene@{database}/").replace("5000", str(port))


@contextmanager
def server(store: ObjectStore, folder: Path) -> Iterator[str]:
    """Run the server and yield its address."""
    import psycopg2

    with postgres() as url:
        login, port = urlsplit(url), free_port()
        database = f"{login.hostname}:{login.port}"
        connection = psycopg2.connect(url.replace("+psycopg2", ""))
        connection.autocommit = True
        with connection.cursor() as cursor:
            statements = "CREATE DATABASE mlflow;" + (FOLDER / "databases.sql").read_text()
            for statement in re.sub(r"--.*", "", statements).split(";"):
                if statement.strip():
                    cursor.execute(statement)
        connection.close()
        (folder / "basic_auth.ini").write_text(
            fill_in((FOLDER / "basic_auth.ini").read_text(), port, database)
        )
        environment = {
            **CLEAN,
            **store.environment,
            "PGPASSWORD": str(login.password),
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "for-tests",
        }
        assert set(environment) >= set(SERVICE["environment"]) - {"AWS_DEFAULT_REGION"}
        command = [fill_in(word, port, database) for word in SERVICE["command"]]
        assert command[0] == "mlflow"
        with running([sys.executable, "-m", *command], port, environment):
            yield f"http://127.0.0.1:{port}"


def status(url: str, host: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_server_requires_a_login_and_stores_runs_and_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with object_store() as store:
        create_bucket = urllib.request.Request(f"{store.url}/convene", method="PUT")
        urllib.request.urlopen(create_bucket).close()
        with server(store, tmp_path) as url:
            experiment = f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0"
            assert status(f"{url}/health") == 200
            assert status(experiment) == 401
            assert status(f"{url}/health", host="elsewhere.example.com") == 200
            assert status(experiment, host="elsewhere.example.com") == 403
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
            from mlflow import MlflowClient

            client = MlflowClient(url)
            run = client.create_run("0")
            client.log_metric(run.info.run_id, "valid_loss", 0.5)
            client.log_text(run.info.run_id, "kept", "note.txt")
            assert client.get_run(run.info.run_id).data.metrics == {"valid_loss": 0.5}
        with urllib.request.urlopen(f"{store.url}/convene?prefix=mlflow/") as answer:
            assert f"{run.info.run_id}/artifacts/note.txt" in answer.read().decode()


PAGES = [FOLDER / "README.md", FOLDER.parent / "kubernetes/README.md"]


def in_container(page: Path, tool: str) -> list[str]:
    """Return the words of the command that a page runs inside PostgreSQL's container."""
    [words] = re.findall(rf"(?:exec .*?)({tool} [^|>\n]+)", page.read_text())
    return shlex.split(words)


def execute(url: str, database: str, *statements: str) -> list[tuple[str]]:
    """Run statements in a database of the server, and return the rows of the last."""
    import psycopg2

    connection = psycopg2.connect(url.replace("+psycopg2", ""), dbname=database)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        rows: list[tuple[str]] = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


@contextmanager
def database_server() -> Iterator[tuple[str, dict[str, str]]]:
    """Run a PostgreSQL with the databases of its first start; yield its URL and its clients' environment."""
    with postgres() as url:
        execute(url, "convene", "CREATE DATABASE mlflow")
        for statement in re.sub(r"--.*", "", (FOLDER / "databases.sql").read_text()).split(";"):
            if statement.strip():
                execute(url, "convene", statement)
        login = urlsplit(url)
        yield (
            url,
            {
                **os.environ,
                "PGHOST": str(login.hostname),
                "PGPORT": str(login.port),
                "PGPASSWORD": str(login.password),
            },
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_backup_restores_every_database(page: Path) -> None:
    databases = ("mlflow", "mlflow_auth", "optuna")
    with database_server() as (url, environment):
        for name in databases:
            execute(url, name, "CREATE TABLE kept (name text)", f"INSERT INTO kept VALUES ('{name}')")
        dump = subprocess.run(
            in_container(page, "pg_dumpall"), env=environment, capture_output=True, check=True
        )
    with database_server() as (url, environment):
        execute(url, "mlflow", "CREATE TABLE kept (name text)")  # MLflow may have created its tables
        subprocess.run(in_container(page, "psql"), env=environment, input=dump.stdout, check=True)
        for name in databases:
            assert execute(url, name, "SELECT name FROM kept") == [(name,)]
