"""Sweeps recorded by version 0.1.0 are opened, shown, resumed and enlarged by this one."""

import json
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import Ended, Services

pytestmark = pytest.mark.filterwarnings("ignore")  # from MLflow and SQLAlchemy

RECORDED = Path(__file__).parent / "recorded/runs.tar.xz"
RECORDED_ROOT = "/tmp/rec/runs"
"""The storage root at the time of recording."""

Command = Callable[..., Ended]


def extract(folder: Path) -> Path:
    """Extract the recorded storage root to `mlruns` in the folder, and point MLflow's artifacts to it."""
    with tarfile.open(RECORDED) as archive:
        archive.extractall(folder, filter="data")
    root = (folder / "runs").rename(folder / "mlruns")
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        names = database.execute(
            "select t.name, c.name from sqlite_master t join pragma_table_info(t.name) c "
            "where t.type = 'table'"
        ).fetchall()
        for table, column in names:
            database.execute(
                f"update {table} set {column} = replace({column}, ?, ?) where instr({column}, ?)",
                (RECORDED_ROOT, str(root), RECORDED_ROOT),
            )
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded storage root, for tests that change no sweep."""
    return extract(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def recorded(root: Path) -> dict[str, Any]:
    """The result that the finished sweep printed."""
    content = json.loads((root / "finished.json").read_text())
    assert isinstance(content, dict)
    return content


def runs_of_trials(root: Path, name: str) -> dict[int, tuple[str, str]]:
    """Return the id and status of the MLflow run of each trial of a sweep."""
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        rows = database.execute(
            "select name, run_uuid, status from runs where name glob ?", (f"{name}/[0-9]*",)
        ).fetchall()
    runs = {int(run.rpartition("/")[2]): (run_id, status) for run, run_id, status in rows}
    assert len(runs) == len(rows)
    return runs


def test_recorded_sweeps_are_listed(root: Path, recorded: dict[str, Any], convene_here: Command) -> None:
    ended = convene_here("list", "--storage", root, "--json")
    assert ended.code == 0, ended.err
    cut_off, finished = ended.json["sweeps"]
    assert (cut_off["name"], cut_off["state"], cut_off["test_reads"]) == ("cut-off", "unfinished", 0)
    assert (finished["name"], finished["state"], finished["test_reads"]) == ("finished", "finished", 1)
    assert finished["trials"] == recorded["trials"]
    for score in ("valid_accuracy", "test_accuracy"):
        assert finished[score] == recorded["ensemble"][score]


def test_a_recorded_result_is_shown(root: Path, recorded: dict[str, Any], convene_here: Command) -> None:
    ended = convene_here("show", "finished", "--storage", root, "--json")
    assert ended.code == 0, ended.err
    for key in ("states", "best_single", "ensemble", "test_reads"):
        assert ended.json[key] == recorded[key]
    trials = {trial["trial"]: trial for trial in ended.json["trials"]}
    assert sorted(trials) == list(range(10))
    for member in recorded["ensemble"]["members"]:
        assert trials[member["trial"]]["state"] == "COMPLETE"
        assert trials[member["trial"]]["valid_accuracy"] == pytest.approx(member["valid_accuracy"])


def test_a_recorded_sweep_that_was_cut_off_is_shown(root: Path, convene_here: Command) -> None:
    ended = convene_here("show", "cut-off", "--storage", root, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["state"] == "unfinished"
    assert ended.json["states"] == {"COMPLETE": 1, "RUNNING": 2}
    assert {trial["trial"]: trial["epochs"] for trial in ended.json["trials"]} == {0: 120, 1: 115, 2: 1}


@pytest.mark.parametrize("view", ["samples", "filters", "features", "errors", "confusion", "predict"])
def test_each_view_of_a_recorded_sweep_is_drawn(
    root: Path, convene_here: Command, view: str, tmp_path: Path
) -> None:
    ended = convene_here("show", "finished", view, "--storage", root, "--to", tmp_path / "views", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["files"]
    assert ended.json["logged"]  # to the recorded MLflow run


@pytest.mark.parametrize("name", ["finished", "cut-off"])
def test_the_report_of_a_recorded_sweep_is_written(
    root: Path, recorded: dict[str, Any], convene_here: Command, name: str, tmp_path: Path
) -> None:
    ended = convene_here("report", name, "--storage", root, "--to", tmp_path / "report.html", "--json")
    assert ended.code == 0, ended.err
    page = (tmp_path / "report.html").read_text()
    assert json.loads((root / f"sweeps/{name}/sweep.json").read_text())["id"] in page
    score = f"{100 * recorded['ensemble']['test_accuracy']:.1f}"
    assert (score in page) == (name == "finished")


def test_a_recorded_ensemble_is_exported_and_predicts(
    root: Path, convene_here: Command, tmp_path: Path
) -> None:
    ended = convene_here("export", "finished", "--to", tmp_path / "model", "--storage", root)
    assert ended.code == 0, ended.err
    digits = load_digits()
    (tmp_path / "images").mkdir()
    for number, image in enumerate(digits.images[:40]):
        pixels = np.round(image * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number:02d}.png")
    ended = convene_here("predict", tmp_path / "model", tmp_path / "images", "--json")
    assert ended.code == 0, ended.err
    labels = [prediction["label"] for prediction in ended.json["predictions"]]
    right = np.array(labels) == digits.target[:40].astype(str)
    assert right.mean() > 0.7  # its test accuracy is 0.91, and some of these images were trained on


def test_the_ensemble_of_a_recorded_sweep_is_selected_again(
    recorded: dict[str, Any], convene_here: Command, tmp_path: Path
) -> None:
    root = extract(tmp_path)
    ended = convene_here("ensemble", "finished", "--storage", root, "--json")
    assert ended.code == 0, ended.err
    ensemble, before = ended.json["ensemble"], recorded["ensemble"]
    for key in ("valid_loss", "valid_accuracy"):  # from the recorded logits
        assert ensemble[key] == before[key]
    for member, member_before in zip(ensemble["members"], before["members"], strict=True):
        for key in ("trial", "weight", "valid_accuracy"):
            assert member[key] == member_before[key]
    # The test set is scored by the networks, which another processor computes in another order: an image on
    # the border between two classes may change.
    assert ensemble["test_accuracy"] == pytest.approx(before["test_accuracy"], abs=0.01)
    assert ended.json["test_reads"] == 2
    assert ended.json["mlflow"]["run_id"] == recorded["mlflow"]["run_id"]


def test_a_recorded_trial_runs_again(root: Path, convene_here: Command) -> None:
    ended = convene_here("replay", "finished", "3", "--storage", root, "--json")
    epochs = ended.json["epochs"]
    assert [epoch["recorded"]["epoch"] for epoch in epochs] == [1, 2, 3, 4]
    # Equal to the last bit only with the same processor and libraries: others add numbers in another order.
    for epoch in epochs:
        for loss in ("train_loss", "valid_loss"):
            assert epoch["replayed"][loss] == pytest.approx(epoch["recorded"][loss], rel=0.01)
    assert ended.code == (0 if ended.json["same"] else 1), ended.err


def test_a_recorded_sweep_that_was_cut_off_is_resumed(services: Services, tmp_path: Path) -> None:
    root = extract(tmp_path)
    before = runs_of_trials(root, "cut-off")
    ended = services.convene("resume", "cut-off", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert (ended.json["trials"], ended.json["mlflow"]["waiting"]) == (4, 0)
    after = runs_of_trials(root, "cut-off")
    assert sorted(after) == [0, 1, 2, 3]
    assert {number: after[number][0] for number in before} == {
        number: run_id for number, (run_id, _) in before.items()
    }
    assert "RUNNING" not in {status for _, status in after.values()}
    table = pd.read_parquet(root / "sweeps/cut-off/trials.parquet").set_index("trial")
    assert sorted(table.index) == [0, 1, 2, 3]
    # The trial that had ended is as it was, and not trained again.
    assert table.valid_loss[0] == pytest.approx(0.3165716234547693)
    assert table.seconds[0] == pytest.approx(2.3146220709997465)


@pytest.mark.slow
def test_a_recorded_sweep_is_enlarged(recorded: dict[str, Any], services: Services, tmp_path: Path) -> None:
    root = extract(tmp_path)
    before = runs_of_trials(root, "finished")
    ended = services.convene("sweep", "finished", "--trials", "+1", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert (ended.json["trials"], ended.json["mlflow"]["waiting"]) == (11, 0)
    assert ended.json["test_reads"] == 2
    assert ended.json["mlflow"]["run_id"] == recorded["mlflow"]["run_id"]
    after = runs_of_trials(root, "finished")
    assert sorted(after) == list(range(11))
    assert {number: after[number] for number in before} == before
