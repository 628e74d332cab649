"""The real command, one small real sweep, and the services that other sweeps share."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import chromium

__all__ = ["chromium"]  # a fixture

# A sweep of seconds in which some trials fail: the highest rate always diverges without batch norm.
SMALL_SPACE = """
[data]
source = "digits"
train_limit = 400

[network]
depth = 2
width = { choices = [4, 8] }
dense = { choices = [0, [16]] }
activation = "leaky_relu"
batch_norm = false

[training]
epochs = 4
batch_size = 20
shift = 0
optimizer = "sgd"
schedule = "constant"
learning_rate = { choices = [0.02, 0.05, 10.0] }

[search]
trials = 8
sampler = "random"
grace_epochs = 2
reduction_factor = 2

[ensemble]
size = 3
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output."""
        content = json.loads(self.out)
        assert isinstance(content, dict)
        return content


CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    and not name.startswith("RAY_AUTH_")
}
"""This process's environment without the services that its user has."""


def convene(*arguments: str | Path, folder: str | Path | None = None, **environment: str) -> Ended:
    """Runs the command in a process of its own, as a user does."""
    ended = subprocess.run(
        [sys.executable, "-m", "convene.cli", *map(str, arguments)],
        cwd=folder,
        env={**CLEAN, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def convene_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Return `convene`, run in this process: the libraries are loaded once, not for each command."""
    from convene import cli

    def run(*arguments: str | Path, folder: str | Path | None = None, **environment: str) -> Ended:
        code = 0
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["convene", *map(str, arguments)])
            if folder:
                patch.chdir(folder)
            for name in os.environ.keys() - CLEAN.keys():
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                cli.main()
            except SystemExit as ended:
                code = int(ended.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


CREATE_TABLES = "import mlflow, sys; mlflow.MlflowClient(sys.argv[1]).search_experiments()"


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow's, to be copied: creating its tables takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    program = [sys.executable, "-c", CREATE_TABLES, f"sqlite:///{folder}/mlflow.db"]
    subprocess.run(program, cwd=folder, env=CLEAN, capture_output=True, check=True)
    return folder / "mlflow.db"


@dataclass(frozen=True)
class Services:
    """A running Ray cluster and an empty MLflow database for small sweeps.

    A sweep that starts Ray and creates MLflow's tables itself takes about twice as long.
    """

    address: dict[str, str]
    """Environment variables that make a command join the cluster."""
    database: Path

    def convene(self, *arguments: str | Path, folder: Path, **environment: str) -> Ended:
        """Run the command on the cluster, with the storage root `mlruns` in the folder."""
        root = folder / "mlruns"
        root.mkdir(exist_ok=True)
        if not (root / "mlflow.db").exists():
            shutil.copy(self.database, root / "mlflow.db")
        return convene(*arguments, folder=folder, **self.address, **environment)


@pytest.fixture(scope="session")
def services(mlflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """One cluster for all sweeps that do not test how a sweep starts its own."""
    from tests.support.ray_cluster import one_node  # which imports this module

    with one_node(tmp_path_factory.mktemp("services")) as address:
        yield Services(address, mlflow_database)


@dataclass(frozen=True)
class Swept:
    """A sweep that was run: where, and what `--json` said."""

    storage: Path
    outcome: dict[str, Any]
    err: str


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("swept")
    (folder / "small.toml").write_text(SMALL_SPACE)
    ended = convene("sweep", folder / "small.toml", "--storage", folder / "runs", "--json")
    assert ended.code == 0, ended.err
    return Swept(folder / "runs", ended.json, ended.err)
