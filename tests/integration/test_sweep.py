"""The whole way, with a real Ray, a real MLflow database and real files."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import SMALL_SPACE, Ended, Services, Swept, convene

STATUSES = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


def rows(storage: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{storage / 'mlflow.db'}?mode=ro", uri=True) as database:
        return database.execute(query, values).fetchall()


def trials_table(swept: Swept) -> pd.DataFrame:
    return pd.read_parquet(swept.storage / "sweeps/small/trials.parquet")


def test_json_keeps_its_contract(swept: Swept) -> None:
    outcome = swept.outcome
    assert outcome["name"] == "small"
    assert outcome["trials"] == 8
    assert sum(outcome["states"].values()) == 8
    assert set(outcome["states"]) == {"COMPLETE", "PRUNED", "FAIL"}
    assert outcome["wall_seconds"] > 0
    assert set(outcome["best_single"]) >= {"trial", "valid_accuracy", "test_accuracy"}
    ensemble = outcome["ensemble"]
    assert sum(member["weight"] for member in ensemble["members"]) == pytest.approx(1)
    low, high = ensemble["test_interval"]
    assert low <= ensemble["test_accuracy"] <= high
    assert outcome["test_reads"] == 1
    assert set(outcome["mlflow"]) >= {"tracking_uri", "experiment", "run_id"}
    assert Path(outcome["export"], "model.onnx").is_file()


def test_a_diverging_trial_fails_with_its_reason_and_the_sweep_goes_on(swept: Swept) -> None:
    table = trials_table(swept)
    failed = table[table.state == "FAIL"]
    assert len(failed) == swept.outcome["states"]["FAIL"] > 0
    assert failed.reason.str.contains("loss is (?:nan|inf) in epoch", regex=True).all()
    assert swept.outcome["states"]["COMPLETE"] > 0


def test_the_table_has_one_row_a_trial(swept: Swept) -> None:
    table = trials_table(swept)
    assert sorted(table.trial) == list(range(8))
    assert Counter(table.state) == Counter({k: v for k, v in swept.outcome["states"].items() if v})
    assert (table[table.state == "COMPLETE"].epochs == 4).all()
    assert table[table.state == "COMPLETE"].valid_loss.is_monotonic_increasing
    assert swept.outcome["images_trained"] == table.epochs.sum() * 400


def test_members_are_the_best_complete_trials(swept: Swept) -> None:
    table = trials_table(swept)
    best = table[table.state == "COMPLETE"].nsmallest(3, "valid_loss").trial
    assert [member["trial"] for member in swept.outcome["ensemble"]["members"]] == list(best)


def test_mlflow_has_each_trial_with_its_status_parameters_and_every_epoch_once(swept: Swept) -> None:
    for trial in trials_table(swept).to_dict("records"):
        run = trial["mlflow_run_id"]
        [(name, status)] = rows(swept.storage, "select name, status from runs where run_uuid = ?", run)
        assert (name, status) == (f"small/{trial['trial']:03d}", STATUSES[trial["state"]])
        parameters = dict(rows(swept.storage, "select key, value from params where run_uuid = ?", run))
        assert parameters["network.width"] == str(trial["network.width"])
        assert {key.partition(".")[0] for key in parameters} == {"network", "training"}
        metrics = rows(swept.storage, "select key, step from metrics where run_uuid = ?", run)
        names = ("train_loss", "valid_loss", "valid_accuracy", "images_per_second")
        steps = range(1, trial["epochs"] + 1)
        assert Counter(metrics) == Counter((name, step) for name in names for step in steps)
        [(parent,)] = rows(
            swept.storage, "select value from tags where run_uuid = ? and key = 'mlflow.parentRunId'", run
        )
        assert parent == swept.outcome["mlflow"]["run_id"]


def test_mlflow_has_the_data_set_as_an_input_of_every_run(swept: Swept) -> None:
    about = json.loads((swept.storage / "sweeps/small/sweep.json").read_text())
    inputs = rows(
        swept.storage,
        "select d.name, d.digest, count(*) from datasets d join inputs i on i.source_id = d.dataset_uuid "
        "group by d.dataset_uuid",
    )
    # Eight trials, the sweep and the ensemble.
    assert inputs == [("digits", about["fingerprint"][:36], 10)]


def test_mlflow_has_the_sweep_the_ensemble_and_a_champion(swept: Swept) -> None:
    status = dict(rows(swept.storage, "select name, status from runs"))
    assert status["small"] == status["small/ensemble"] == "FINISHED"
    assert rows(swept.storage, "select name, alias, version from registered_model_aliases") == [
        ("digits-ensemble", "champion", 1)
    ]


def test_the_study_has_the_states_of_the_trials(swept: Swept) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal = swept.storage / "sweeps/small/study.journal"
    study = optuna.load_study(study_name="small", storage=JournalStorage(JournalFileBackend(str(journal))))
    rows_by_trial = trials_table(swept).set_index("trial").to_dict("index")
    for trial in study.trials:
        row = rows_by_trial[trial.number]
        assert trial.state.name == row["state"]
        assert sorted(trial.intermediate_values) == list(range(1, row["epochs"] + 1))


def test_progress_is_plain_lines_where_there_is_no_terminal(swept: Swept) -> None:
    assert "\x1b" not in swept.err
    assert "8/8 done" in swept.err


def test_a_trial_runs_again_outside_ray_with_the_same_curve(
    swept: Swept, convene_here: Callable[..., Ended]
) -> None:
    table = trials_table(swept)
    trial = str(table[table.state == "COMPLETE"].trial.iloc[0])
    ended = convene_here("replay", "small", trial, "--storage", swept.storage, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["same"]
    assert len(ended.json["epochs"]) == 4
    missing = convene_here("replay", "small", "99", "--storage", swept.storage)
    assert missing.code == 2
    assert "trial 99" in missing.err


def test_list_shows_the_sweep(swept: Swept) -> None:
    [listed] = convene("list", "--storage", swept.storage, "--json").json["sweeps"]
    assert (listed["name"], listed["state"], listed["trials"]) == ("small", "finished", 8)
    assert "small" in convene("list", "--storage", swept.storage).out


def test_a_name_that_is_taken_is_refused_and_nothing_changes(swept: Swept, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL_SPACE)
    before = sorted(swept.storage.rglob("*"))
    ended = convene("sweep", tmp_path / "small.toml", "--name", "small", "--storage", swept.storage)
    assert ended.code == 2
    assert "--name small" in ended.err
    assert sorted(swept.storage.rglob("*")) == before


def test_export_copies_and_predict_reads_images(swept: Swept, tmp_path: Path) -> None:
    ended = convene("export", "small", "--to", tmp_path / "model", "--storage", swept.storage, "--json")
    assert ended.code == 0, ended.err
    digits = load_digits()
    (tmp_path / "images").mkdir()
    for number, image in enumerate(digits.images[:40]):
        pixels = np.round(image * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number:02d}.png")
    table = tmp_path / "labels.csv"
    ended = convene("predict", tmp_path / "model", tmp_path / "images", "--to", table)
    assert ended.code == 0, ended.err
    predicted = pd.read_csv(table)
    assert list(predicted.columns) == ["file", "label", "probability"]
    # Mostly training images, so even these small networks know more than half: chance is a tenth.
    assert (predicted.label == digits.target[:40]).mean() > 0.5


@pytest.fixture(scope="module")
def colour_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits as colour photographs of many sizes: a hue each, by class in folders."""
    folder = tmp_path_factory.mktemp("colour")
    digits, random = load_digits(), np.random.default_rng(0)
    for number, (image, label) in enumerate(zip(digits.images[:400], digits.target[:400], strict=True)):
        if label > 3:
            continue
        tint = random.uniform(0.5, 1, 3)
        pixels = (image[..., None] / 16 * 255 * tint).astype(np.uint8)
        width, height = (int(side) for side in random.integers(10, 40, 2))
        place = folder / f"photos/digit-{label}"
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{number:03d}.{'png' if number % 2 else 'jpg'}"
        Image.fromarray(pixels).resize((width, height)).save(file)
    return folder / "photos"


def test_a_folder_of_colour_images_goes_all_the_way(
    colour_folder: Path, services: Services, tmp_path: Path
) -> None:
    (tmp_path / "photos.toml").write_text(
        f"[data]\nsource = {json.dumps(str(colour_folder))}\nimage_size = 12\n"
        "[network]\ndepth = { low = 1, high = 2 }\nwidth = 8\n[training]\nepochs = 6\nshift = 1\n"
        "[search]\ntrials = 3\n[ensemble]\nsize = 2\n"
    )
    ended = services.convene("sweep", "photos.toml", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert convene("export", "photos", "--to", "model", folder=tmp_path).code == 0
    ended = convene("predict", "model", colour_folder, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    predictions = ended.json["predictions"]
    right = [row["label"] == row["file"].split("/")[0] for row in predictions]
    # Most were trained on; four classes leave chance at a quarter.
    assert np.mean(right) > 0.7


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from MLflow and SQLAlchemy
def test_the_final_stage_can_be_redone_and_says_that_it_read_the_test_set_again(
    services: Services, convene_here: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "two.toml").write_text(SMALL_SPACE.replace("trials = 8", "trials = 4"))
    sets = ("--set", "training.learning_rate=0.02", "--set", "search.scheduler=none")
    first = services.convene("sweep", "two.toml", *sets, "--json", folder=tmp_path)
    assert first.code == 0, first.err
    again = convene_here("ensemble", "two", "--size", "2", "--json", folder=tmp_path)
    assert again.code == 0, again.err
    assert len(again.json["ensemble"]["members"]) == 2
    assert again.json["test_reads"] == 2
    assert again.json["mlflow"]["run_id"] == first.json["mlflow"]["run_id"]
    assert again.json["states"] == first.json["states"]
    shown = convene_here("ensemble", "two", "--size", "1", folder=tmp_path)
    assert "test set read 3 times" in shown.out
    best = again.json["best_single"]["trial"]
    result = json.loads((tmp_path / "mlruns/sweeps/two/result.json").read_text())
    assert result["ensemble"]["members"][0]["trial"] == best


@pytest.mark.slow
def test_time_that_is_too_short_for_all_trials_still_ends_in_an_ensemble(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(SMALL_SPACE.replace("epochs = 4", "epochs = 40"))
    ended = convene(
        *("sweep", "short.toml", "--trials", "5000", "--time-budget", "60s", "--json"),
        *("--set", "training.learning_rate=0.02", "--set", "search.scheduler=none"),
        folder=tmp_path,
    )
    assert ended.code == 0, ended.err
    assert 0 < ended.json["trials"] < 5000
    assert ended.json["ensemble"]["members"]


def test_a_sweep_in_which_nothing_finishes_says_what_went_wrong_in_each(
    services: Services, tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text(SMALL_SPACE.replace("[0.02, 0.05, 10.0]", "[9.0, 10.0]"))
    ended = services.convene("sweep", "bad.toml", "--trials", "2", folder=tmp_path)
    assert ended.code == 1
    assert "trial 0: FAIL" in ended.err and "trial 1: FAIL" in ended.err
    assert "Traceback" not in ended.err
    assert rows(tmp_path / "mlruns", "select status from runs where name = 'bad'") == [("FAILED",)]
