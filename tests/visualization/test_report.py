"""The report of finished and unfinished sweeps: its text, its figures, and its safety."""

import json
import re
import shutil
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from convene.config import search_space
from convene.datasets import Images
from convene.ensemble import test_predictions
from convene.records.open_sweep import OpenSweep
from convene.records.result import EnsembleChoice
from convene.records.trials import RecordedTrial
from convene.search.trial_state import TrialState
from convene.sweep import final_stage
from convene.training.metrics import accuracy_interval
from convene.visualization import report
from convene.visualization.report import ReportData, text
from tests.conftest import Swept, convene
from tests.support.synthetic import record_sweep

HOSTILE = '"><script>window.hit = 1</script><img src=x onerror="window.hit = 2">{{ 7 * 7 }}'


class Reader(HTMLParser):
    """The text, the elements and the script contents of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []
        self._scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.append(tag)
        self.anchors += [str(values["href"]).removeprefix("#")] if tag == "a" else []
        self.ids += [str(values["id"])] if "id" in values else []
        self._script = (values.get("id") or "") if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data.replace("\u00a0", " ")
        else:
            self._scripts[self._script] = data

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        figures: dict[str, dict[str, Any]] = json.loads(self._scripts["figures"])
        return figures


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> OpenSweep:
    return record_sweep(tmp_path_factory.mktemp("report"), trials=80)


@pytest.fixture(scope="module")
def data(sweep: OpenSweep) -> ReportData:
    return report.load_data(sweep)


@pytest.fixture(scope="module")
def page(data: ReportData) -> Reader:
    return Reader(report.render(data))


# --- A real sweep -------------------------------------------------------------------------------------


def test_a_sweep_writes_its_report_and_logs_it_to_mlflow(swept: Swept) -> None:
    written = swept.storage / "sweeps/small/report.html"
    [artifact] = (swept.storage / "artifacts").rglob("report.html")
    assert swept.outcome["mlflow"]["run_id"] in artifact.parts
    assert artifact.read_bytes() == written.read_bytes()
    assert written.stat().st_size < 2_500_000  # compressed plotly.js alone is 1,960,000
    page = Reader(written.read_text())
    assert f"Test accuracy: {100 * swept.outcome['ensemble']['test_accuracy']:.1f} %" in page.text
    assert re.search(r"loss is (nan|inf) in epoch", page.text)


def test_the_report_of_a_sweep_without_a_result(swept: Swept, tmp_path: Path) -> None:
    folder = tmp_path / "runs/sweeps/small"
    shutil.copytree(swept.storage / "sweeps/small", folder)
    for name in ("result.json", "report.html", "test_evidence.npz", "test_reads.json"):
        (folder / name).unlink()
    to = tmp_path / "so-far.html"
    ended = convene("report", "small", "--storage", tmp_path / "runs", "--to", to, "--json")
    assert ended.code == 0, ended.err
    assert ended.json == {"name": "small", "report": str(to)}
    page = Reader(to.read_text())
    assert "No result yet: 8 of 8 trials done" in page.text
    assert "There is no test score" in page.text
    assert {"history", "curves", "parameters"} <= set(page.figures)
    assert "img" not in page.tags
    assert not (folder / "test_reads.json").exists() and not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["smal"], "did you mean small"),
        (
            ["small", "--to", "nowhere/report.html"],
            "--to nowhere/report.html: must be a file in an existing folder",
        ),
    ],
)
def test_invalid_arguments_are_rejected(
    swept: Swept, tmp_path: Path, arguments: list[str], says: str
) -> None:
    ended = convene("report", *arguments, "--storage", swept.storage, folder=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err


# --- Content ------------------------------------------------------------------------------------------


def test_the_report_starts_with_the_test_accuracy(data: ReportData, page: Reader) -> None:
    assert data.result and data.predictions
    percent = f"{100 * data.result.ensemble.test_accuracy:.1f} %"
    assert page.text.index(f"Test accuracy: {percent}") < page.text.index("The ensemble of 5 networks")
    averaged, labels = data.predictions.ensemble_logits, data.predictions.labels
    low, high = (f"{100 * bound:.1f}" for bound in accuracy_interval(averaged, labels))
    assert f"{percent} (95 % confidence interval: {low} to {high} %)" in page.text
    assert f"The best single network, trial {data.result.best_single.trial}, has" in page.text
    assert "(exact McNemar test, p = " in page.text


def test_all_sections_and_figures_are_present(page: Reader) -> None:
    assert len(page.anchors) == page.tags.count("h2") == 10
    figures = {
        *("accuracies", "sizes_loss", "sizes_accuracy", "history", "importances", "parallel", "curves"),
        *("parameters", "latency", "reliability", "confidences"),
    }
    assert set(page.figures) == figures
    assert {*page.anchors, *figures} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_printed_configuration_reproduces_the_sweep(sweep: OpenSweep, page: Reader) -> None:
    [shown] = re.findall(r"\[data\]\n.*?\n\n(?=\s*data)", page.text, re.DOTALL)
    recorded = tomllib.loads(sweep.record.files.read("search_space.toml").decode())
    assert tomllib.loads(shown) == recorded | {"ensemble": {"size": 5, "rank_by": "valid_loss"}}


def test_the_printed_configuration_is_that_of_the_latest_ensemble(tmp_path: Path) -> None:
    sweep = record_sweep(tmp_path, trials=20)
    assert sweep.record.result
    chosen = EnsembleChoice(3, "valid_accuracy")
    sweep.record.write_result(replace(sweep.record.result, chosen=chosen))
    shown = report.load_data(sweep).space.base.ensemble
    assert (shown.size, shown.rank_by) == (3, "valid_accuracy")


def test_the_text_matches_the_records(data: ReportData) -> None:
    assert data.result and data.predictions
    images = len(data.predictions.labels)
    wrong = round((1 - data.result.ensemble.test_accuracy) * images)
    assert text.misclassified(data.predictions).startswith(f"{wrong} of {images} test images")
    states = data.result.states
    assert text.search(data).startswith(
        f"{states[TrialState.COMPLETE]} trials completed, "
        f"{states[TrialState.PRUNED]} were stopped early and "
        f"{states[TrialState.FAIL]} failed. The best, trial {data.ranking[0]},"
    )
    score = data.ensemble_scores[len(data.members) - 1]
    assert data.chosen_score
    assert score.valid_loss == pytest.approx(data.chosen_score.valid_loss, rel=1e-6)
    chosen = replace(data.chosen_score, valid_loss=0.0777)  # chosen before better networks existed
    assert "the chosen ensemble of 5 networks reaches 0.0777" in text.ensemble_sizes(
        data.ensemble_scores, chosen
    )


def test_each_saved_error_has_a_thumbnail(data: ReportData, page: Reader) -> None:
    assert data.predictions
    wrong = data.predictions.ensemble_logits.argmax(axis=1) != data.predictions.labels
    assert 0 < wrong.sum() <= 40
    assert page.text.count("→") == wrong.sum() + 2 + 1  # two tables and a heading also have arrows
    assert wrong.sum() < page.tags.count("img") <= 80


def test_inapplicable_parameters_are_dashes(data: ReportData, page: Reader) -> None:
    best = [trial for trial in data.ranked[:10] if "network.dense_dropout" not in trial.searched]
    assert best and page.text.count("–") >= len(best)


def test_repeated_openings_of_the_test_set_are_noted(data: ReportData, page: Reader) -> None:
    assert "may be optimistic" not in page.text
    assert "was opened 3 times" in Reader(report.render(replace(data, test_reads=3))).text


def test_a_sweep_whose_trials_all_failed_names_the_reasons(data: ReportData) -> None:
    trials = tuple(
        RecordedTrial(
            replace(trial.studied, state=TrialState.FAIL, reason="out of memory", values=None), None
        )
        for trial in data.trials
    )
    study = optuna.create_study()
    failed = replace(
        data, trials=trials, ranking=(), ensemble_scores=(), result=None, predictions=None, study=study
    )
    page = Reader(report.render(failed))
    assert "No result: all 80 trials failed" in page.text
    assert "out of memory" in page.text
    assert page.figures.keys() == set()


def test_a_running_sweep_has_not_failed(data: ReportData) -> None:
    failed = [trial for trial in data.trials if trial.state == TrialState.FAIL][:1]
    running = replace(data, trials=tuple(failed), result=None, predictions=None)
    assert text.headline(replace(running, has_ended=True)) == "No result: the only trial failed"
    assert text.headline(replace(running, has_ended=False)).startswith("No result yet: 1 of")


def test_several_objectives_have_a_pareto_front(data: ReportData, page: Reader) -> None:
    space = search_space.override(data.space, {"search.objectives": ["valid_loss", "parameters"]})
    trials = tuple(
        RecordedTrial(
            replace(trial.studied, values=(trial.record.last.valid_loss, trial.record.parameters)),
            trial.record,
        )
        if trial.state == TrialState.COMPLETE and trial.record
        else trial
        for trial in data.trials
    )
    best = data.ranking[0]
    shown = Reader(report.render(replace(data, space=space, trials=trials, pareto_front=frozenset([best]))))
    assert f"optimised validation loss and parameters. Trial {best} is on the Pareto front:" in shown.text
    traces = {trace["name"]: trace for trace in shown.figures["front_parameters"]["data"]}
    record = next(trial.record for trial in data.trials if trial.number == best)
    assert record
    assert traces["Pareto front"]["x"] == [record.parameters]
    assert traces["Pareto front"]["y"] == [record.last.valid_loss]
    assert len(traces["other trials"]["x"]) == len(data.ranking) - 1
    assert "front" in shown.anchors
    assert "What are the trade-offs" not in page.text


def test_one_trial_is_enough_for_a_report(tmp_path: Path) -> None:
    page = Reader(report.render(report.load_data(record_sweep(tmp_path, trials=1, seed=3))))
    assert "The ensemble consists of this one network." in page.text
    assert "Where do the members disagree" not in page.text


# --- Safety -------------------------------------------------------------------------------------------


def test_names_are_escaped(data: ReportData, page: Reader) -> None:
    trials = tuple(
        RecordedTrial(replace(trial.studied, reason=HOSTILE if trial.studied.reason else None), trial.record)
        for trial in data.trials
    )
    classes = tuple(f"{HOSTILE}{name}" for name in data.classes)
    metadata = replace(data.metadata, dataset=HOSTILE, versions={HOSTILE: HOSTILE, "convene": "1"})
    hostile = Reader(report.render(replace(data, trials=trials, classes=classes, metadata=metadata)))
    assert hostile.tags == page.tags
    assert hostile.text.count(HOSTILE) > 30


def test_many_classes_and_large_images_are_reduced(
    data: ReportData,
) -> None:
    assert data.predictions
    members, random = data.predictions.members, np.random.default_rng(0)
    logits = {member.trial: random.normal(size=(300, 100)).astype(np.float32) for member in members}
    photographs = random.integers(0, 256, (300, 3, 128, 128), dtype=np.uint8)
    predictions = test_predictions.collect(members, logits, Images(photographs, random.integers(0, 100, 300)))
    classes = tuple(f"class {number}" for number in range(100))
    page = report.render(replace(data, predictions=predictions, classes=classes))
    assert "80 classes with fewer mistakes omitted" in page
    # Noise of 96 x 96 x 3 bytes is incompressible: 37 kB as text, the maximum for a thumbnail.
    assert len(page) < 2_300_000 + 64 * 40_000


def test_predictions_of_another_ensemble_are_not_shown(sweep: OpenSweep, tmp_path: Path) -> None:
    # The state after a final stage was interrupted between the predictions and the result.
    other = record_sweep(tmp_path, trials=20, seed=1)
    assert report.load_data(other).predictions
    predictions = test_predictions.load(sweep.record.files)
    assert predictions
    test_predictions.save(other.record.files, predictions)
    loaded = report.load_data(other)
    assert loaded.predictions is None
    assert "Test accuracy: " in report.render(loaded)


def test_a_report_that_cannot_be_rendered_causes_a_warning_only(
    sweep: OpenSweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(report, "render", fails)
    final_stage.write_report(sweep)
    assert "no ink" in caplog.text and "convene report synthetic" in caplog.text
    assert not Path(sweep.record.report).exists()
