"""What a search can be asked for, on real sweeps: conditions, several objectives, what is known already."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from tests.conftest import Ended, Services

Command = Callable[..., Ended]

SPACE = """
[data]
source = "digits"
train_limit = 200

[network]
depth = { low = 1, high = 2 }
width = { choices = [2, 4, 8] }
dense = { choices = [0, 16] }
dense_dropout = { low = 0.1, high = 0.5, when = { dense = 16 } }

[training]
epochs = 3
batch_size = 20

[search]
trials = 5
objectives = ["valid_loss", "parameters"]
try_first = [
    { network = { dense = 16, dense_dropout = 0.25, width = 8, depth = 1 } },
    { network = { dense = 0, width = 2 } },
]

[ensemble]
size = 2
"""


def tags(storage: Path, run: str) -> dict[str, str]:
    with sqlite3.connect(f"file:{storage / 'mlflow.db'}?mode=ro", uri=True) as database:
        return dict(database.execute("select key, value from tags where run_uuid = ?", (run,)).fetchall())


def parameters(storage: Path, run: str) -> dict[str, str]:
    with sqlite3.connect(f"file:{storage / 'mlflow.db'}?mode=ro", uri=True) as database:
        return dict(database.execute("select key, value from params where run_uuid = ?", (run,)).fetchall())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    (folder / "front.toml").write_text(SPACE)
    return folder


@pytest.fixture(scope="module")
def first(folder: Path, services: Services) -> dict[str, Any]:
    """A sweep of two objectives whose study is in a database."""
    storage = f"sqlite:///{folder}/study.db"
    ended = services.convene("sweep", "front.toml", "--json", folder=folder, OPTUNA_STORAGE=storage)
    assert ended.code == 0, ended.err
    return ended.json


def table_of(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"mlruns/sweeps/{name}/trials.parquet").set_index("trial").sort_index()


def test_the_front_is_in_the_json_the_table_and_mlflow(first: dict[str, Any], folder: Path) -> None:
    table = table_of(folder, "front")
    complete = table[table.state == "COMPLETE"]
    beaten = {
        a: any(
            (b.valid_loss <= a_row.valid_loss and b.parameters <= a_row.parameters)
            and (b.valid_loss, b.parameters) != (a_row.valid_loss, a_row.parameters)
            for b in complete.itertuples()
        )
        for a, a_row in complete.iterrows()
    }
    front = [number for number in complete.index if not beaten[number]]
    assert front == list(table.index[table.pareto])
    assert [row["trial"] for row in first["pareto"]] == front
    assert [row["parameters"] for row in first["pareto"]] == list(table.parameters[front])
    assert json.loads(tags(folder / "mlruns", first["mlflow"]["run_id"])["convene.pareto"]) == first["pareto"]


def test_what_does_not_apply_is_absent_everywhere(first: dict[str, Any], folder: Path) -> None:
    table = table_of(folder, "front")
    [summary] = optuna.get_all_study_summaries(f"sqlite:///{folder}/study.db")
    study = optuna.load_study(study_name=summary.study_name, storage=f"sqlite:///{folder}/study.db")
    for trial in study.trials:
        row = table.loc[trial.number]
        applies = trial.params["network.dense"] == 16
        assert ("network.dense_dropout" in trial.params) == applies
        assert pd.notna(row["network.dense_dropout"]) == applies
        run = parameters(folder / "mlruns", str(row.mlflow_run_id))
        assert ("network.dense_dropout" in run) == applies
        assert "network.dropout" in run


def test_the_first_trials_are_those_listed(first: dict[str, Any], folder: Path) -> None:
    table = table_of(folder, "front")
    assert (table.loc[0, "network.width"], table.loc[0, "network.dense_dropout"]) == (8, 0.25)
    assert table.loc[1, "network.width"] == 2


def test_a_study_in_a_database_is_needed_to_go_on(
    first: dict[str, Any], folder: Path, services: Services, convene_here: Command
) -> None:
    lost = convene_here("resume", "front", folder=folder)
    assert lost.code == 2
    assert "set OPTUNA_STORAGE" in lost.err
    found = convene_here("resume", "front", folder=folder, OPTUNA_STORAGE=f"sqlite:///{folder}/study.db")
    assert found.code == 0
    assert "is finished; nothing was changed" in found.err
    nowhere = "postgresql://u:secret@127.0.0.1:9/x"
    away = services.convene("sweep", "front.toml", folder=folder, OPTUNA_STORAGE=nowhere)
    assert away.code == 2
    assert "OPTUNA_STORAGE = postgresql://127.0.0.1:9/x: cannot be opened" in away.err
    assert "secret" not in away.err
    assert not (folder / "mlruns/sweeps/front-2").exists()


def test_a_finished_sweep_takes_more_trials(
    first: dict[str, Any], folder: Path, services: Services, convene_here: Command
) -> None:
    storage = f"sqlite:///{folder}/study.db"
    refused = convene_here(
        "sweep", "front", "--trials", "+2", "--seed", "3", folder=folder, OPTUNA_STORAGE=storage
    )
    assert refused.code == 2
    before = table_of(folder, "front")
    ended = services.convene(
        "sweep", "front", "--trials", "+2", "--json", folder=folder, OPTUNA_STORAGE=storage
    )
    assert ended.code == 0, ended.err
    after = table_of(folder, "front")
    assert ended.json["trials"] == len(after) == 7
    assert ended.json["test_reads"] == 2
    assert ended.json["mlflow"]["run_id"] == first["mlflow"]["run_id"]
    # What there was is as it was: the same runs, not trained again.
    columns = ["state", "seconds", "valid_loss", "mlflow_run_id"]
    pd.testing.assert_frame_equal(after.loc[before.index, columns], before[columns])


def test_a_sweep_starts_from_an_earlier_one(
    first: dict[str, Any], folder: Path, services: Services, convene_here: Command
) -> None:
    storage = f"sqlite:///{folder}/study.db"
    arguments = ("sweep", "front.toml", "--set", "search.start_from=front", "--json")
    ended = services.convene(
        *arguments, "--name", "next", "--trials", "3", folder=folder, OPTUNA_STORAGE=storage
    )
    assert ended.code == 0, ended.err
    earlier = len(table_of(folder, "front"))
    assert (ended.json["taken"], ended.json["trials"]) == (earlier, 3)
    assert list(table_of(folder, "next").index) == [earlier, earlier + 1, earlier + 2]
    members = [member["trial"] for member in ended.json["ensemble"]["members"]]
    assert min(members) >= earlier
    other = convene_here(
        *arguments, "--set", "network.depth=5", "--name", "no", folder=folder, OPTUNA_STORAGE=storage
    )
    assert other.code == 2
    unlike = convene_here(
        *arguments, "--set", "training.epochs=4", "--name", "no", folder=folder, OPTUNA_STORAGE=storage
    )
    assert unlike.code == 2
    assert "none of its trials lies in this space" in json.loads(unlike.out)["error"]
    images = convene_here(
        *arguments, "--set", "data.train_limit=100", "--name", "no", folder=folder, OPTUNA_STORAGE=storage
    )
    assert images.code == 2
    assert "was trained on other images" in json.loads(images.out)["error"]
    assert not (folder / "mlruns/sweeps/no").exists()
