"""The descriptions on MLflow's pages."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from convene import datasets
from convene.config import search_space
from convene.datasets import Dataset
from convene.records.result import (
    BestSingle,
    EnsembleChoice,
    MlflowRun,
    ScoredEnsemble,
    ScoredMember,
    SweepResult,
)
from convene.records.sweep_record import SweepMetadata, SweepRecord
from convene.records.trials import Standing, TrialView
from convene.search.trial_state import TrialState
from convene.storage import Storage
from convene.tracking import descriptions, experiment
from convene.training.metrics import Epoch
from tests.support.synthetic import SPACE

SPACE_ = search_space.build(SPACE)
EPOCHS = tuple(Epoch(epoch, 0.5, 0.25, 0.9861, 1000.0) for epoch in (1, 2, 3))
SETTINGS = {"network.depth": 2, "network.dense": [256, 64], "network.growth": 2.0}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load(SPACE_.base.data)


@pytest.fixture
def record(tmp_path: Path) -> SweepRecord:
    return SweepRecord(Storage(str(tmp_path)), "small")


def result(reads: int = 1) -> SweepResult:
    members = (ScoredMember(7, 0.75, 0.98, 0.97), ScoredMember(2, 0.25, 0.98, 0.97))
    return SweepResult(
        name="small",
        trials=6,
        states={TrialState.COMPLETE: 3, TrialState.PRUNED: 2, TrialState.FAIL: 1},
        wall_seconds=1.0,
        images_trained=1,
        best_single=BestSingle(7, 0.98, 0.97, (0.95, 0.98)),
        ensemble=ScoredEnsemble(members, 0.1, 0.99, 0.2, 0.9875, (0.96, 0.99)),
        test_reads=reads,
        mlflow=MlflowRun("", "digits", None, waiting=0),
        export="/there/exports/ensemble",
        storage="/there",
        chosen=EnsembleChoice(5, "valid_loss"),
    )


@pytest.mark.parametrize(
    ("view", "standing", "expected", "absent"),
    [
        (
            TrialView(17, SETTINGS, 0.0),
            None,
            ["**Trial 17 of sweep small**: running."],
            ["Rank", "ensemble", "accuracy", "growth"],
        ),
        (
            TrialView(17, SETTINGS, 0.0, 1.0, TrialState.COMPLETE, None, EPOCHS),
            Standing(3, 21, 0.2),
            [
                "complete after 3 epochs.",
                "Validation accuracy: **98.61 %** (loss 0.2500).",
                "Rank **3** of 21",
                "weight **0.200**",
            ],
            ["Not in the ensemble"],
        ),
        (
            TrialView(17, SETTINGS, 0.0, 1.0, TrialState.COMPLETE, None, EPOCHS),
            Standing(4, 21, None),
            ["Rank **4** of 21", "Not in the ensemble."],
            ["weight"],
        ),
        (
            TrialView(17, SETTINGS, 0.0, 1.0, TrialState.PRUNED, "not among the best at epoch 1", EPOCHS[:1]),
            None,
            ["pruned after 1 epoch: not among the best at epoch 1."],
            ["Rank", "epochs"],
        ),
        (  # a member although no trial was complete
            TrialView(17, SETTINGS, 0.0, 1.0, TrialState.PRUNED, "time", EPOCHS[:1]),
            Standing(None, 0, 1.0),
            ["weight **1.000**"],
            ["Rank"],
        ),
        (
            TrialView(17, {}, 0.0, 1.0, TrialState.FAIL, "loss is nan | <b>in</b>\nepoch 1"),
            None,
            ["failed after 0 epochs: loss is nan \\| \\<b\\>in\\</b\\> epoch 1."],
            ["accuracy", "Searched"],
        ),
    ],
)
def test_a_trial(
    record: SweepRecord, view: TrialView, standing: Standing | None, expected: list[str], absent: list[str]
) -> None:
    text = descriptions.trial(record, SPACE_, view, standing)
    assert [part for part in expected if part not in text] == []
    assert [part for part in absent if part in text] == []
    assert ("- `network.dense`: `[256, 64]`" in text) == ("network.dense" in view.settings)
    assert f"`convene replay small --storage {record.storage.root} 17`" in text


def test_a_sweep_begins_with_links_and_results(record: SweepRecord, digits: Dataset) -> None:
    links = {"Leaderboard": "#/there"}
    parts = descriptions.sweep(record, SPACE_, digits, result(), links).split("\n\n")
    assert parts[1] == (
        "Ensemble of 2 networks. Test accuracy: **98.75 %** (95 % interval 96.00 to 99.00 %); "
        "best single network, trial 7: 97.00 % (95.00 to 98.00 %). "
        "6 trials: 3 complete, 2 pruned, 1 failed. The test set was read once."
    )
    assert parts[0] == "[Leaderboard](#/there)"
    rest = "\n".join(parts[2:])
    for part in (
        "- `network.depth`: 1 to 3\n",
        "- `network.width`: `8`, `16`, `24`, `32`\n",
        "- `network.dense_dropout`: 0 to 0.5; only if `dense` = `[128, [256, 64]]`\n",
        "- `training.learning_rate`: 0.0001 to 0.03, log scale\n",
        "`/there/exports/ensemble`",
        f"`convene resume small --storage {record.storage.root}`",
    ):
        assert part in rest, part


def test_a_sweep_before_its_result_and_after_a_second_read(record: SweepRecord, digits: Dataset) -> None:
    before = descriptions.sweep(record, SPACE_, digits, None, {})
    assert before.startswith(
        f"Results appear here at the end of the search ({SPACE_.base.search.trials} trials)."
    )
    assert "exports" not in before
    after = descriptions.sweep(record, SPACE_, digits, result(reads=2), {})
    assert "The test set was read 2 times: scores after the first read may be optimistic." in after


def test_an_ensemble(record: SweepRecord) -> None:
    text = descriptions.ensemble(
        record, result().scores, {7: "#/seven", 2: None}, "models:/digits-ensemble/3"
    )
    assert "- [trial 7](#/seven): weight 0.750, validation accuracy 98.00 %, test accuracy 97.00 %\n" in text
    assert "- trial 2: weight 0.250" in text
    assert 'load_model("models:/digits-ensemble/3")' in text
    assert "The test set was read once." in text


def test_a_model_and_its_version(record: SweepRecord, digits: Dataset) -> None:
    text = descriptions.model(replace(digits, name="my_[digits](x)"))
    assert "for my\\_\\[digits\\](x).**" in text
    assert "greyscale, `[example, 1, 8, 8]`" in text
    assert "the classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, in this order" in text
    version = descriptions.version(record, digits, result().scores)
    assert version.startswith("Sweep small, trials 7, 2. Test accuracy: **98.75 %**")
    assert digits.fingerprint[:12] in version


def test_the_views_of_an_experiment_have_mlflows_format() -> None:
    metadata = SweepMetadata("small", "c0ffee", "2026-11-22T10:00:00+00:00", "digits", 10, 1, "", "", {})
    tags = experiment.view_tags(SPACE_, metadata)
    named = json.loads(tags["mlflow.sharedViewState.convene"])
    assert (named["name"], named["createdAt"]) == ("Sweeps", 1795341600000)
    sweeps, own = json.loads(named["state"]), json.loads(tags["mlflow.sharedViewState.c0ffee"])
    assert sweeps["selectedColumns"][:3] == [
        "metrics.`valid_accuracy`",
        "metrics.`valid_loss`",
        "metrics.`test_accuracy`",
    ]
    assert "params.`network.dense_dropout`" in sweeps["selectedColumns"]
    # The page nests trials under sweeps only if it is sorted by time.
    assert "orderByKey" not in sweeps
    assert (own["orderByKey"], own["orderByAsc"]) == ("metrics.`valid_loss`", True)
    assert "tags.`convene.id` = 'c0ffee'" in own["searchFilter"]
    assert max(map(len, tags.values())) < 20_000  # characters, MLflow's limit
