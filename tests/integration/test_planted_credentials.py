"""A sweep whose environment is full of credentials shows none, also where it fails."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import SMALL_SPACE, convene
from tests.integration.test_faults import free_port, mlflow_server
from tests.support.planted import SECRETS, assert_nothing_planted

pytestmark = pytest.mark.slow


def test_no_credential_is_written_or_said(tmp_path: Path, mlflow_database: Path) -> None:
    shutil.copy(mlflow_database, tmp_path / "server.db")
    (tmp_path / "small.toml").write_text(SMALL_SPACE)
    port, runs, said = free_port(), tmp_path / "runs", ""
    environment = {
        **SECRETS,
        "RAY_AUTH_TOKEN": "planted-token-of-ray",
        "MLFLOW_TRACKING_URI": f"http://someone:planted-in-a-url@127.0.0.1:{port}",
        # SQLite leaves alone what it does not know of an address like this one.
        "OPTUNA_STORAGE": f"sqlite:///file:{tmp_path}/study.db?uri=true&password=planted-in-a-query",
    }

    def run(code: int, *words: str | Path, **others: str) -> None:
        nonlocal said
        ended = convene(*words, "--storage", runs, **{**environment, **others})
        assert ended.code == code, ended.err
        said += ended.out + ended.err

    with mlflow_server(tmp_path, port):
        run(0, "sweep", tmp_path / "small.toml", "--name", "s", "--json", "--trials", "4")
        run(0, "show", "s")
        run(0, "report", "s")
        run(0, "ui", "--json")
    assert f"127.0.0.1:{port}" in said
    again = ("sweep", tmp_path / "small.toml", "--name", "t")
    run(2, *again)  # the server is away
    nowhere = "postgresql://someone:planted-in-a-url@127.0.0.1:1/optuna"
    run(2, *again, MLFLOW_TRACKING_URI="", OPTUNA_STORAGE=nowhere)
    run(2, *again, MLFLOW_TRACKING_URI=nowhere, OPTUNA_STORAGE="")
    assert (runs / "sweeps/s/result.json").exists()
    assert_nothing_planted(said, tmp_path)
