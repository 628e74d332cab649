"""The report: what it says, of a sweep that is finished or not, and that no name can break it."""

import json
import re
import shutil
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

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
from convene.visualization.report import Findings, text
from tests.conftest import Swept, convene
from tests.support.synthetic import record_sweep

HOSTILE = '"><script>window.hit = 1</script><img src=x onerror="window.hit = 2">{{ 7 * 7 }}'


class Reader(HTMLParser):
    """What a browser would see of a page: its text, its elements, and what its scripts hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []
        self._held: dict[str, str] = {}
        self._script: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags.append(tag)
        self.anchors += [str(given["href"]).removeprefix("#")] if tag == "a" else []
        self.ids += [str(given["id"])] if "id" in given else []
        self._script = (given.get("id") or "") if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data.replace("\u00a0", " ")
        else:
            self._held[self._script] = data

    @property
    def figures(self) -> dict[str, dict]:
        return json.loads(self._held["figures"])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> OpenSweep:
    return record_sweep(tmp_path_factory.mktemp("report"), trials=80)


@pytest.fixture(scope="module")
def findings(sweep: OpenSweep) -> Findings:
    return report.gather(sweep)


@pytest.fixture(scope="module")
def page(findings: Findings) -> Reader:
    return Reader(report.render(findings))


# --- Of a real sweep ---------------------------------------------------------------------------------


def test_a_sweep_leaves_its_report_and_hands_it_to_mlflow(swept: Swept) -> None:
    written = swept.storage / "sweeps/small/report.html"
    [artifact] = (swept.storage / "artifacts").rglob("report.html")
    assert swept.outcome["mlflow"]["run_id"] in artifact.parts
    assert artifact.read_bytes() == written.read_bytes()
    assert written.stat().st_size < 2_500_000  # of which plotly.js, compressed, is 1,960,000
    page = Reader(written.read_text())
    assert f"{100 * swept.outcome['ensemble']['test_accuracy']:.1f} % of the test images right" in page.text
    assert re.search(r"loss is (nan|inf) in epoch", page.text)


def test_a_sweep_without_a_result_shows_what_there_is(swept: Swept, tmp_path: Path) -> None:
    folder = tmp_path / "runs/sweeps/small"
    shutil.copytree(swept.storage / "sweeps/small", folder)
    for name in ("result.json", "report.html", "test_evidence.npz", "test_reads.json"):
        (folder / name).unlink()
    to = tmp_path / "so-far.html"
    ended = convene("report", "small", "--storage", tmp_path / "runs", "--to", to, "--json")
    assert ended.code == 0, ended.err
    assert ended.json == {"name": "small", "report": str(to)}
    page = Reader(to.read_text())
    assert "No result yet: 8 trials of 8 ended" in page.text
    assert "Nothing is known of the test set" in page.text
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
def test_bad_input_is_refused(swept: Swept, tmp_path: Path, arguments: list[str], says: str) -> None:
    ended = convene("report", *arguments, "--storage", swept.storage, folder=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err


# --- What it says ------------------------------------------------------------------------------------


def test_it_begins_with_the_answer(findings: Findings, page: Reader) -> None:
    assert findings.result and findings.predictions
    right = f"{100 * findings.result.ensemble.test_accuracy:.1f} %"
    assert page.text.index(f"{right} of the test images right") < page.text.index(
        "The ensemble of 5 networks"
    )
    averaged, labels = findings.predictions.ensemble_logits, findings.predictions.labels
    low, high = (f"{100 * bound:.1f}" for bound in accuracy_interval(averaged, labels))
    assert f"{right} of the test images (95 % interval {low} to {high} %)" in page.text
    assert f"trial {findings.result.best_single.trial}, on" in page.text
    assert "(exact McNemar test, p = " in page.text


def test_it_has_every_section_and_figure(page: Reader) -> None:
    assert len(page.anchors) == page.tags.count("h2") == 10
    figures = {
        *("accuracies", "sizes_loss", "sizes_accuracy", "history", "importances", "parallel", "curves"),
        *("parameters", "latency", "reliability", "confidences"),
    }
    assert set(page.figures) == figures
    assert {*page.anchors, *figures} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_its_configuration_makes_the_sweep_again(sweep: OpenSweep, page: Reader) -> None:
    [shown] = re.findall(r"\[data\]\n.*?\n\n(?=\s*data)", page.text, re.DOTALL)
    recorded = tomllib.loads(sweep.record.files.read("search_space.toml").decode())
    assert tomllib.loads(shown) == recorded | {"ensemble": {"size": 5, "rank_by": "valid_loss"}}


def test_the_configuration_is_that_of_the_ensemble_that_was_chosen_last(tmp_path: Path) -> None:
    sweep = record_sweep(tmp_path, trials=20)
    assert sweep.record.result
    chosen = EnsembleChoice(3, "valid_accuracy")
    sweep.record.write_result(replace(sweep.record.result, chosen=chosen))
    shown = report.gather(sweep).space.base.ensemble
    assert (shown.size, shown.rank_by) == (3, "valid_accuracy")


def test_its_words_agree_with_what_was_recorded(findings: Findings) -> None:
    assert findings.result and findings.predictions
    images = len(findings.predictions.labels)
    wrong = round((1 - findings.result.ensemble.test_accuracy) * images)
    assert text.hard(findings.predictions).startswith(f"{wrong} of {images} test images")
    states = findings.result.states
    assert text.search(findings).startswith(
        f"{states[TrialState.COMPLETE]} trials ran to the end, "
        f"{states[TrialState.PRUNED]} were stopped early and "
        f"{states[TrialState.FAIL]} failed. The best, trial {findings.order[0]},"
    )
    of_that_size = findings.ensembled[len(findings.members) - 1]
    assert findings.chosen
    assert of_that_size.valid_loss == pytest.approx(findings.chosen.valid_loss, rel=1e-6)
    chosen = replace(findings.chosen, valid_loss=0.0777)  # of other networks, before there were better ones
    assert "chosen together 0.0777" in text.sizes(findings.ensembled, chosen)


def test_a_picture_shows_each_mistake_that_was_kept(findings: Findings, page: Reader) -> None:
    assert findings.predictions
    wrong = findings.predictions.ensemble_logits.argmax(axis=1) != findings.predictions.labels
    assert 0 < wrong.sum() <= 40
    assert page.text.count("→") == wrong.sum() + 2 + 1  # two tables and a heading have arrows too
    assert wrong.sum() < page.tags.count("img") <= 80


def test_a_parameter_that_does_not_apply_is_a_dash(findings: Findings, page: Reader) -> None:
    best = [trial for trial in findings.ranked[:10] if "network.dense_dropout" not in trial.searched]
    assert best and page.text.count("–") >= len(best)


def test_a_second_look_at_the_test_set_is_told(findings: Findings, page: Reader) -> None:
    assert "no longer those of a first look" not in page.text
    assert "was read 3 times" in Reader(report.render(replace(findings, test_reads=3))).text


def test_a_sweep_in_which_all_failed_says_why(findings: Findings) -> None:
    trials = tuple(
        RecordedTrial(
            replace(trial.studied, state=TrialState.FAIL, reason="out of memory", values=None), None
        )
        for trial in findings.trials
    )
    study = optuna.create_study()
    nothing = replace(
        findings, trials=trials, order=(), ensembled=(), result=None, predictions=None, study=study
    )
    page = Reader(report.render(nothing))
    assert "No result: all 80 trials failed" in page.text
    assert "out of memory" in page.text
    assert page.figures.keys() == set()


def test_a_sweep_at_work_has_not_failed(findings: Findings) -> None:
    failed = [trial for trial in findings.trials if trial.state == TrialState.FAIL][:1]
    at_work = replace(findings, trials=tuple(failed), result=None, predictions=None)
    assert text.headline(replace(at_work, ended=True)) == "No result: the only trial failed"
    assert text.headline(replace(at_work, ended=False)).startswith("No result yet: 1 trial of")


def test_of_several_objectives_it_shows_the_front(findings: Findings, page: Reader) -> None:
    space = search_space.override(findings.space, {"search.objectives": ["valid_loss", "parameters"]})
    trials = tuple(
        RecordedTrial(
            replace(trial.studied, values=(trial.record.last.valid_loss, trial.record.parameters)),
            trial.record,
        )
        if trial.state == TrialState.COMPLETE and trial.record
        else trial
        for trial in findings.trials
    )
    best = findings.order[0]
    shown = Reader(report.render(replace(findings, space=space, trials=trials, front=frozenset([best]))))
    assert (
        f"improved validation loss and parameters. No trial beats trial {best} in all of these." in shown.text
    )
    data = {trace["name"]: trace for trace in shown.figures["front_parameters"]["data"]}
    record = next(trial.record for trial in findings.trials if trial.number == best)
    assert record
    assert data["Pareto front"]["x"] == [record.parameters]
    assert data["Pareto front"]["y"] == [record.last.valid_loss]
    assert len(data["other trials"]["x"]) == len(findings.order) - 1
    assert "front" in shown.anchors
    assert "What did the search trade" not in page.text


def test_one_trial_is_enough_for_a_page(tmp_path: Path) -> None:
    page = Reader(report.render(report.gather(record_sweep(tmp_path, trials=1, seed=3))))
    assert "The ensemble is this one network." in page.text
    assert "Where do the members disagree" not in page.text


# --- What could break it -----------------------------------------------------------------------------


def test_nothing_that_users_name_becomes_markup(findings: Findings, page: Reader) -> None:
    trials = tuple(
        RecordedTrial(replace(trial.studied, reason=HOSTILE if trial.studied.reason else None), trial.record)
        for trial in findings.trials
    )
    classes = tuple(f"{HOSTILE}{name}" for name in findings.classes)
    about = replace(findings.about, dataset=HOSTILE, versions={HOSTILE: HOSTILE, "convene": "1"})
    hostile = Reader(report.render(replace(findings, trials=trials, classes=classes, about=about)))
    assert hostile.tags == page.tags
    assert hostile.text.count(HOSTILE) > 30


def test_of_many_classes_the_most_confused_are_shown_and_of_photographs_thumbnails(
    findings: Findings,
) -> None:
    assert findings.predictions
    members, random = findings.predictions.members, np.random.default_rng(0)
    logits = {member.trial: random.normal(size=(300, 100)).astype(np.float32) for member in members}
    photographs = random.integers(0, 256, (300, 3, 128, 128), dtype=np.uint8)
    seen = test_predictions.collect(members, logits, Images(photographs, random.integers(0, 100, 300)))
    classes = tuple(f"class {number}" for number in range(100))
    page = report.render(replace(findings, predictions=seen, classes=classes))
    assert "80 classes with fewer mistakes left out" in page
    # Noise of 96 x 96 x 3 bytes cannot be compressed: 37 kB each as text, the most that a picture can be.
    assert len(page) < 2_300_000 + 64 * 40_000


def test_answers_of_another_ensemble_are_not_shown(sweep: OpenSweep, tmp_path: Path) -> None:
    # As a final stage leaves it that was cut off after the test and before its result.
    other = record_sweep(tmp_path, trials=20, seed=1)
    assert report.gather(other).predictions
    seen = test_predictions.load(sweep.record.files)
    assert seen
    test_predictions.save(other.record.files, seen)
    gathered = report.gather(other)
    assert gathered.predictions is None
    assert "of the test images right" in report.render(gathered)


def test_a_page_that_fails_is_told_and_no_more(
    sweep: OpenSweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(report, "render", fails)
    final_stage.write_report(sweep)
    assert "no ink" in caplog.text and "convene report synthetic" in caplog.text
    assert not Path(sweep.record.report).exists()
