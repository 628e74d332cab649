"""One page from what was found: words, figures, tables and pictures, in one file."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convene.ensemble.diagnostics import calibration, confusion, disagreement
from convene.ensemble.test_predictions import Predictions
from convene.formatting import duration, percent, plural, short
from convene.records.trials import RecordedTrial
from convene.training.metrics import accuracy, accuracy_interval
from convene.visualization import figures
from convene.visualization.figures import Candidate, Figure, LearningCurve, ParetoPoint, Score
from convene.visualization.report import text, thumbnails
from convene.visualization.report.findings import Findings

_CLASSES = 20  # of a confusion matrix; of more, those with the most errors
_TOP = 10  # trials of the leaderboard


@dataclass(frozen=True)
class Matrix:
    """A table of numbers between named rows and columns; `shades` from 0 to 1."""

    rows: list[str]
    columns: list[str]
    cells: list[list[str]]
    shades: list[list[float]]
    left_out: int = 0
    """Classes that it does not show."""


@dataclass(frozen=True)
class MemberRow:
    """A member in the table of the ensemble's networks."""

    recorded: RecordedTrial
    weight: float
    test_accuracy: float


def render(findings: Findings) -> str:
    """The page as HTML: without a single request, in light and dark, on paper and on a phone."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("convene.visualization.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_keep_units,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "short": short, "duration": duration}
    environment.globals |= {"plural": plural, "words": figures.words}
    drawn = _figures(findings)
    return environment.get_template("report.html").render(
        found=findings,
        answers=text,
        figures=drawn,
        figures_json=_inline_json({name: _content(figure) for name, figure in drawn.items()}),
        colours={"light": figures.LIGHT, "dark": figures.DARK},
        colours_json=_inline_json({"light": figures.LIGHT, "dark": figures.DARK}),
        contents=_contents(findings, drawn),
        members=_members(findings),
        leaderboard=_leaderboard(findings),
        candidates=_candidates(findings),
        test=_test(findings),
        plotly=_plotly(),
    )


def _keep_units(value: Any) -> Any:
    """Return text in which no line ends between a number and its percent sign; markup as it is."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def _contents(findings: Findings, drawn: Mapping[str, Figure]) -> list[tuple[str, str]]:
    """Anchors and names of the sections that there are."""
    there = {
        ("sizes", "How many networks"): bool(findings.ensembled),
        ("search", "Search"): bool(findings.trials),
        ("mattered", "Parameters"): "importances" in drawn,
        ("learning", "Learning curves"): "curves" in drawn,
        ("front", "Trade-offs"): any(f"front_{cost}" in drawn for cost in findings.costs),
        ("simplest", "Simplest network"): "parameters" in drawn,
        ("confusion", "Confusions"): bool(findings.predictions),
        ("confidence", "Confidence"): bool(findings.predictions),
        ("images", "Hard images"): bool(findings.predictions),
        ("members", "Disagreement"): bool(findings.predictions and len(findings.members) > 1),
        ("again", "Make it again"): True,
    }
    return [section for section, shown in there.items() if shown]


def _content(figure: Figure) -> dict[str, Any]:
    return {"data": figure.data, "layout": figure.layout}


def _inline_json(content: object) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _plotly() -> str:
    """plotly.js, compressed: 2 MB instead of 5, which every browser since 2023 unpacks by itself."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode()


def _figures(findings: Findings) -> dict[str, Figure]:
    """The figures that there is something to show in, by name."""
    members, objective = findings.members, findings.objective
    which = findings.space.base.search.objectives.index(findings.space.base.search.primary_objective)
    courses = [_course(trial, objective) for trial in findings.trials]
    drawn: dict[str, Figure | None] = {}
    if any(course.values for course in courses):
        drawn["history"] = figures.history(courses, objective, members, findings.minimizes)
        drawn["curves"] = figures.learning_curves(courses, objective, members)
    drawn["importances"] = figures.importances(findings.study, which)
    drawn["parallel"] = figures.parallel_coordinates(findings.study, which, objective)
    if findings.result:
        drawn["accuracies"] = figures.accuracies(_scores(findings))
    if len(findings.ensembled) > 1:
        sizes, chosen, images = findings.ensembled, findings.chosen, findings.valid_images
        drawn["sizes_loss"] = figures.ensemble_sizes(sizes, chosen, images, "valid_loss")
        drawn["sizes_accuracy"] = figures.ensemble_sizes(sizes, chosen, images, "valid_accuracy")
    if candidates := _candidates(findings):
        chosen_one = figures.simplest(candidates, findings.valid_images)
        drawn["parameters"] = figures.trade_off(candidates, "parameters", chosen_one)
        if any(candidate.latency_ms is not None for candidate in candidates):
            drawn["latency"] = figures.trade_off(candidates, "latency_ms", chosen_one)
    for cost in findings.costs:
        if weighed := _weighed(findings, cost):
            drawn[f"front_{cost}"] = figures.front(weighed, cost, objective)
    if findings.predictions:
        bins = calibration(findings.predictions.ensemble_logits, findings.predictions.labels)
        drawn["confidences"] = figures.confidences(bins)
        drawn["reliability"] = figures.reliability(bins)
    return {name: figure for name, figure in drawn.items() if figure}


def _course(trial: RecordedTrial, objective: str) -> LearningCurve:
    epochs = trial.record.epochs if trial.record else ()
    return LearningCurve(trial.number, trial.state, tuple(getattr(epoch, objective) for epoch in epochs))


def _candidates(findings: Findings) -> list[Candidate]:
    return [
        Candidate(
            trial.number, trial.record.last.valid_accuracy, trial.record.parameters, trial.record.latency_ms
        )
        for trial in findings.ranked
        if trial.record
    ]


def _weighed(findings: Findings, cost: str) -> list[ParetoPoint]:
    """The complete trials in two of the objectives that the search had."""
    objectives = findings.space.base.search.objectives
    at, of = objectives.index(cost), objectives.index(findings.objective)
    complete = [(trial.number, trial.studied.values) for trial in findings.trials if trial.studied.values]
    return [ParetoPoint(n, values[at], values[of], n in findings.front) for n, values in complete if values]


def _scores(findings: Findings) -> list[Score]:
    """The ensemble, the best single network, and the other members where the test's answers were kept."""
    assert findings.result
    ensemble, single = findings.result.ensemble, findings.result.best_single
    scores = [
        Score("ensemble", ensemble.test_accuracy, ensemble.test_interval, "ensemble"),
        Score(
            f"best single, trial {single.trial}",
            single.test_accuracy,
            single.test_interval,
            "single",
        ),
    ]
    if findings.predictions:
        labels = findings.predictions.labels
        scores += [
            Score(f"trial {trial}", accuracy(logits, labels), accuracy_interval(logits, labels), "complete")
            for trial, logits in findings.predictions.logits_by_trial.items()
            if trial != single.trial
        ]
    return scores


def _members(findings: Findings) -> list[MemberRow]:
    if not findings.result:
        return []
    by_number = {trial.number: trial for trial in findings.trials}
    return [
        MemberRow(by_number[member.trial], member.weight, member.test_accuracy)
        for member in findings.result.ensemble.members
    ]


def _leaderboard(findings: Findings) -> list[RecordedTrial]:
    """The best complete trials."""
    return list(findings.ranked[: max(_TOP, len(findings.members))])


def _test(findings: Findings) -> dict[str, Any] | None:
    """Everything that was seen of the test set."""
    predictions = findings.predictions
    if not predictions:
        return None
    counts = confusion(predictions.ensemble_logits, predictions.labels)
    bins = calibration(predictions.ensemble_logits, predictions.labels)
    return {
        "images": len(predictions.labels),
        "confusions": text.confusions(counts, findings.classes),
        "matrix": _confusion_matrix(counts, findings.classes),
        "calibration": text.calibration(bins),
        "wrong": int(counts.sum() - np.trace(counts)),
        "hard": text.hard(predictions),
        "gallery": thumbnails.gallery(predictions, findings.classes),
        "disputes": text.disputes(predictions),
        "disagreement": _disagreement_matrix(predictions),
    }


def _confusion_matrix(counts: np.ndarray, classes: Sequence[str]) -> Matrix:
    """Rows are truths. Errors are shaded by their share of the largest; the diagonal is not."""
    errors = counts - np.diag(np.diag(counts))
    involved = errors.sum(axis=0) + errors.sum(axis=1)
    shown = np.sort(np.argsort(-involved, kind="stable")[:_CLASSES])
    shades = errors / max(1, errors.max())
    names = [classes[place] for place in shown]
    return Matrix(
        names,
        names,
        [[str(counts[row, column] or "") for column in shown] for row in shown],
        [[round(float(shades[row, column]), 3) for column in shown] for row in shown],
        left_out=len(classes) - len(shown),
    )


def _disagreement_matrix(predictions: Predictions) -> Matrix:
    apart, count = disagreement(predictions.logits), len(predictions.labels)
    names = [str(member.trial) for member in predictions.members]
    places = range(len(names))
    return Matrix(
        names,
        names,
        [
            [str(round(apart[row, column] * count)) if row != column else "" for column in places]
            for row in places
        ],
        [[round(float(apart[row, column] / (apart.max() or 1)), 3) for column in places] for row in places],
    )
