"""What MLflow's pages say."""

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
    ("view", "standing", "says", "omits"),
    [
        (
            TrialView(17, SETTINGS, 0.0),
            None,
            ["**Trial 17 of sweep small**: is being trained."],
            ["Rank", "ensemble", "right", "growth"],
        ),
        (
            TrialView(17, SETTINGS, 0.0, 1.0, TrialState.COMPLETE, None, EPOCHS),
            Standing(3, 21, 0.2),
            [
                "COMPLETE after 3 epochs.",
                "**98.61 %** of the validation",
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
            ["stopped early after 1 epoch: not among the best at epoch 1."],
            ["Rank", "epochs"],
        ),
        (  # one of those that an ensemble is made of where no trial was complete
            TrialView(17, SETTINGS, 0.0, 1.0, TrialState.PRUNED, "time", EPOCHS[:1]),
            Standing(None, 0, 1.0),
            ["weight **1.000**"],
            ["Rank"],
        ),
        (
            TrialView(17, {}, 0.0, 1.0, TrialState.FAIL, "loss is nan | <b>in</b>\nepoch 1"),
            None,
            ["failed after 0 epochs: loss is nan \\| \\<b\\>in\\</b\\> epoch 1."],
            ["right", "Searched"],
        ),
    ],
)
def test_a_trial(
    record: SweepRecord, view: TrialView, standing: Standing | None, says: list[str], omits: list[str]
) -> None:
    told = descriptions.trial(record, SPACE_, view, standing)
    assert [part for part in says if part not in told] == []
    assert [part for part in omits if part in told] == []
    assert ("- `network.dense`: `[256, 64]`" in told) == ("network.dense" in view.settings)
    assert f"`convene replay small --storage {record.storage.root} 17`" in told


def test_a_sweep_tells_where_to_go_and_the_answer_first(record: SweepRecord, digits: Dataset) -> None:
    links = {"Leaderboard": "#/there"}
    told = descriptions.sweep(record, SPACE_, digits, result(), links).split("\n\n")
    assert told[1] == (
        "The ensemble of 2 networks names **98.75 %** of the test images right "
        "(95 % interval 96.00 to 99.00 %); the best single network, trial 7, 97.00 % (95.00 to 98.00 %). "
        "6 trials: 3 complete, 2 stopped early, 1 failed. Test set read 1 time."
    )
    assert told[0] == "[Leaderboard](#/there)"
    rest = "\n".join(told[2:])
    for part in (
        "- `network.depth`: 1 to 3\n",
        "- `network.width`: `8`, `16`, `24`, `32`\n",
        "- `network.dense_dropout`: 0 to 0.5; only with `dense` = `[128, [256, 64]]`\n",
        "- `training.learning_rate`: 0.0001 to 0.03, by its logarithm\n",
        "`/there/exports/ensemble`",
        f"`convene resume small --storage {record.storage.root}`",
    ):
        assert part in rest, part


def test_a_sweep_before_and_after_a_second_opening(record: SweepRecord, digits: Dataset) -> None:
    before = descriptions.sweep(record, SPACE_, digits, None, {})
    assert before.startswith(f"Of {SPACE_.base.search.trials} trials the results are told here once")
    assert "exports" not in before
    again = descriptions.sweep(record, SPACE_, digits, result(reads=2), {})
    assert "Test set read 2 times: these scores are no longer those of a first look." in again


def test_an_ensemble(record: SweepRecord) -> None:
    told = descriptions.ensemble(
        record, result().scores, {7: "#/seven", 2: None}, "models:/digits-ensemble/3"
    )
    assert "- [trial 7](#/seven): weight 0.750, 98.00 % right in validation, 97.00 % in the test\n" in told
    assert "- trial 2: weight 0.250" in told
    assert 'load_model("models:/digits-ensemble/3")' in told
    assert "The test set was read once, for this score." in told


def test_a_model_and_its_version(record: SweepRecord, digits: Dataset) -> None:
    told = descriptions.model(replace(digits, name="my_[digits](x)"))
    assert "for my\\_\\[digits\\](x).**" in told
    assert "grey, `[example, 1, 8, 8]`" in told
    assert "the classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, in this order" in told
    version = descriptions.version(record, digits, result().scores)
    assert version.startswith("Sweep small, trials 7, 2: **98.75 %**")
    assert digits.fingerprint[:12] in version


def test_the_views_of_an_experiment_are_as_its_page_reads_them() -> None:
    about = SweepMetadata("small", "c0ffee", "2026-11-22T10:00:00+00:00", "digits", 10, 1, "", "", {})
    tags = experiment.views(SPACE_, about)
    named = json.loads(tags["mlflow.sharedViewState.convene"])
    assert (named["name"], named["createdAt"]) == ("Sweeps", 1795341600000)
    sweeps, own = json.loads(named["state"]), json.loads(tags["mlflow.sharedViewState.c0ffee"])
    assert sweeps["selectedColumns"][:3] == [
        "metrics.`valid_accuracy`",
        "metrics.`valid_loss`",
        "metrics.`test_accuracy`",
    ]
    assert "params.`network.dense_dropout`" in sweeps["selectedColumns"]
    # The page nests trials under sweeps only where it is sorted by time.
    assert "orderByKey" not in sweeps
    assert (own["orderByKey"], own["orderByAsc"]) == ("metrics.`valid_loss`", True)
    assert "tags.`convene.id` = 'c0ffee'" in own["searchFilter"]
    assert max(map(len, tags.values())) < 20_000  # characters that MLflow takes
