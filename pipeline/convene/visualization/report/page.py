"""The report as one HTML page with text, figures, tables and images."""

import base64
import gzip
import json
import re
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
from convene.visualization.report.data import ReportData

_MATRIX_CLASSES = 20  # at most; the classes with the most errors
_LEADERBOARD_TRIALS = 10


@dataclass(frozen=True)
class Matrix:
    """A table of numbers with named rows and columns, and shades from 0 to 1."""

    rows: list[str]
    columns: list[str]
    cells: list[list[str]]
    shades: list[list[float]]
    omitted: int = 0
    """Number of classes that are not shown."""


@dataclass(frozen=True)
class MemberRow:
    """A row of the table of members."""

    trial: RecordedTrial
    weight: float
    test_accuracy: float


def render(report: ReportData) -> str:
    """Return the page as HTML. It makes no requests, and has a light, a dark, a print and a phone layout."""
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
    environment.globals |= {"plural": plural, "label": figures.label}
    drawn = _figures(report)
    return environment.get_template("report.html").render(
        report=report,
        text=text,
        figures=drawn,
        figures_json=_inline_json({name: _to_plotly(figure) for name, figure in drawn.items()}),
        colours={"light": figures.LIGHT, "dark": figures.DARK},
        colours_json=_inline_json({"light": figures.LIGHT, "dark": figures.DARK}),
        contents=_contents(report, drawn),
        members=_members(report),
        leaderboard=_leaderboard(report),
        candidates=_candidates(report),
        test=_test_results(report),
        plotly=_compressed_plotly(),
    )


def _keep_units(value: Any) -> Any:
    """Put a no-break space between numbers and percent signs in text, but not in markup."""
    return re.sub(r"(?<=\d) %", "\u00a0%", value) if type(value) is str else value


def _contents(report: ReportData, drawn: Mapping[str, Figure]) -> list[tuple[str, str]]:
    """Return the anchors and names of the sections on this page."""
    sections = {
        ("sizes", "Ensemble size"): bool(report.ensemble_scores),
        ("search", "Search"): bool(report.trials),
        ("mattered", "Parameters"): "importances" in drawn,
        ("learning", "Learning curves"): "curves" in drawn,
        ("front", "Trade-offs"): any(f"front_{cost}" in drawn for cost in report.costs),
        ("simplest", "Simplest network"): "parameters" in drawn,
        ("confusion", "Confusion matrix"): bool(report.predictions),
        ("confidence", "Calibration"): bool(report.predictions),
        ("images", "Hard images"): bool(report.predictions),
        ("members", "Disagreement"): bool(report.predictions and len(report.members) > 1),
        ("again", "Reproduce"): True,
    }
    return [section for section, is_present in sections.items() if is_present]


def _to_plotly(figure: Figure) -> dict[str, Any]:
    return {"data": figure.data, "layout": figure.layout}


def _inline_json(content: object) -> str:
    """Return JSON that cannot close the script element around it."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _compressed_plotly() -> str:
    """Return plotly.js compressed from 5 to 2 MB; every browser since 2023 can decompress it."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode()


def _figures(report: ReportData) -> dict[str, Figure]:
    """Return the figures for which there is data, by name."""
    members, objective = report.members, report.objective
    objective_index = report.space.base.search.objectives.index(report.space.base.search.primary_objective)
    curves = [_learning_curve(trial, objective) for trial in report.trials]
    drawn: dict[str, Figure | None] = {}
    if any(curve.values for curve in curves):
        drawn["history"] = figures.history(curves, objective, members, report.minimizes)
        drawn["curves"] = figures.learning_curves(curves, objective, members)
    drawn["importances"] = figures.importances(report.study, objective_index)
    drawn["parallel"] = figures.parallel_coordinates(report.study, objective_index, objective)
    if report.result:
        drawn["accuracies"] = figures.accuracies(_scores(report))
    if len(report.ensemble_scores) > 1:
        scores, chosen, images = report.ensemble_scores, report.chosen_score, report.valid_images
        drawn["sizes_loss"] = figures.ensemble_sizes(scores, chosen, images, "valid_loss")
        drawn["sizes_accuracy"] = figures.ensemble_sizes(scores, chosen, images, "valid_accuracy")
    if candidates := _candidates(report):
        simplest = figures.simplest(candidates, report.valid_images)
        drawn["parameters"] = figures.trade_off(candidates, "parameters", simplest)
        if any(candidate.latency_ms is not None for candidate in candidates):
            drawn["latency"] = figures.trade_off(candidates, "latency_ms", simplest)
    for cost in report.costs:
        if trials := _pareto_points(report, cost):
            drawn[f"front_{cost}"] = figures.pareto_figure(trials, cost, objective)
    if report.predictions:
        bins = calibration(report.predictions.ensemble_logits, report.predictions.labels)
        drawn["confidences"] = figures.confidences(bins)
        drawn["reliability"] = figures.reliability(bins)
    return {name: figure for name, figure in drawn.items() if figure}


def _learning_curve(trial: RecordedTrial, objective: str) -> LearningCurve:
    epochs = trial.record.epochs if trial.record else ()
    return LearningCurve(trial.number, trial.state, tuple(getattr(epoch, objective) for epoch in epochs))


def _candidates(report: ReportData) -> list[Candidate]:
    return [
        Candidate(
            trial.number, trial.record.last.valid_accuracy, trial.record.parameters, trial.record.latency_ms
        )
        for trial in report.ranked
        if trial.record
    ]


def _pareto_points(report: ReportData, cost: str) -> list[ParetoPoint]:
    """Return the complete trials by the primary objective and one other."""
    objectives = report.space.base.search.objectives
    cost_index, objective_index = objectives.index(cost), objectives.index(report.objective)
    complete = [(trial.number, trial.studied.values) for trial in report.trials if trial.studied.values]
    return [
        ParetoPoint(number, values[cost_index], values[objective_index], number in report.pareto_front)
        for number, values in complete
        if values
    ]


def _scores(report: ReportData) -> list[Score]:
    """Return the test accuracies of the ensemble, the best single network and, if known, other members."""
    assert report.result
    ensemble, single = report.result.ensemble, report.result.best_single
    scores = [
        Score("ensemble", ensemble.test_accuracy, ensemble.test_interval, "ensemble"),
        Score(
            f"best single, trial {single.trial}",
            single.test_accuracy,
            single.test_interval,
            "single",
        ),
    ]
    if report.predictions:
        labels = report.predictions.labels
        scores += [
            Score(f"trial {trial}", accuracy(logits, labels), accuracy_interval(logits, labels), "complete")
            for trial, logits in report.predictions.logits_by_trial.items()
            if trial != single.trial
        ]
    return scores


def _members(report: ReportData) -> list[MemberRow]:
    if not report.result:
        return []
    by_number = {trial.number: trial for trial in report.trials}
    return [
        MemberRow(by_number[member.trial], member.weight, member.test_accuracy)
        for member in report.result.ensemble.members
    ]


def _leaderboard(report: ReportData) -> list[RecordedTrial]:
    """Return the best complete trials."""
    return list(report.ranked[: max(_LEADERBOARD_TRIALS, len(report.members))])


def _test_results(report: ReportData) -> dict[str, Any] | None:
    """Return what the page shows of the test set."""
    predictions = report.predictions
    if not predictions:
        return None
    counts = confusion(predictions.ensemble_logits, predictions.labels)
    bins = calibration(predictions.ensemble_logits, predictions.labels)
    return {
        "images": len(predictions.labels),
        "confusions_text": text.confusions(counts, report.classes),
        "matrix": _confusion_matrix(counts, report.classes),
        "calibration_text": text.calibration(bins),
        "wrong": int(counts.sum() - np.trace(counts)),
        "misclassified_text": text.misclassified(predictions),
        "gallery": thumbnails.gallery(predictions, report.classes),
        "disagreement_text": text.disagreement(predictions),
        "disagreement": _disagreement_matrix(predictions),
    }


def _confusion_matrix(counts: np.ndarray, classes: Sequence[str]) -> Matrix:
    """Return the confusion matrix, truths by row. Errors are shaded relative to the largest."""
    errors = counts - np.diag(np.diag(counts))
    involvement = errors.sum(axis=0) + errors.sum(axis=1)
    shown = np.sort(np.argsort(-involvement, kind="stable")[:_MATRIX_CLASSES])
    shades = errors / max(1, errors.max())
    names = [classes[index] for index in shown]
    return Matrix(
        names,
        names,
        [[str(counts[row, column] or "") for column in shown] for row in shown],
        [[round(float(shades[row, column]), 3) for column in shown] for row in shown],
        omitted=len(classes) - len(shown),
    )


def _disagreement_matrix(predictions: Predictions) -> Matrix:
    shares, count = disagreement(predictions.logits), len(predictions.labels)
    names = [str(member.trial) for member in predictions.members]
    indices = range(len(names))
    return Matrix(
        names,
        names,
        [
            [str(round(shares[row, column] * count)) if row != column else "" for column in indices]
            for row in indices
        ],
        [
            [round(float(shares[row, column] / (shares.max() or 1)), 3) for column in indices]
            for row in indices
        ],
    )
