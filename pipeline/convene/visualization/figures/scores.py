"""Figures of the results: accuracies with intervals, scores by ensemble size, and calibration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convene.ensemble.diagnostics import CalibrationBin
from convene.ensemble.selection import EnsembleScore
from convene.training.metrics import wilson_interval
from convene.visualization.figures.figure import Figure, axis, line, points, scale


@dataclass(frozen=True)
class Score:
    """An accuracy and its interval, from 0 to 1, and the role whose colour it has."""

    name: str
    accuracy: float
    interval: tuple[float, float]
    role: str


def accuracies(scores: Sequence[Score]) -> Figure:
    """Return a figure of accuracies with their intervals, one per row."""
    data = []
    for score in scores:
        low, high = score.interval
        trace = points([100 * score.accuracy], [score.name], score.name, score.role, marker={"size": 11})
        trace["error_x"] = {
            "type": "data",
            "array": [100 * (high - score.accuracy)],
            "arrayminus": [100 * (score.accuracy - low)],
            "color": f"@{score.role}",
            "thickness": 2,
            "width": 0,
        }
        bounds = f"{100 * low:.2f} to {100 * high:.2f} %"
        trace["hovertemplate"] = f"%{{x:.2f}} %<br>95 % interval: {bounds}<extra></extra>"
        data.append(trace)
    layout = {
        "xaxis": axis("test accuracy (%)"),
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category", "showgrid": False},
        "showlegend": False,
        "margin": {"t": 8},
    }
    return Figure(data, layout, height=60 + 30 * len(scores))


def ensemble_sizes(
    scores: Sequence[EnsembleScore], chosen: EnsembleScore | None, images: int, metric: str
) -> Figure:
    """Return a figure of a metric of the best k networks' ensemble by k; an accuracy has a 95 % band.

    Args:
        scores: by ascending size.
        chosen: the ensemble to mark. It may have other networks, if trials were added since.
        images: number of validation images.
        metric: `valid_accuracy` or `valid_loss`.
    """
    sizes = [score.size for score in scores]
    unit = 1 if metric == "valid_loss" else 100
    values, title, data = [unit * getattr(score, metric) for score in scores], "validation loss", []
    if metric == "valid_accuracy":
        title = "validation accuracy (%)"
        intervals = [wilson_interval(round(score.valid_accuracy * images), images) for score in scores]
        outline = [100 * high for _, high in intervals] + [100 * low for low, _ in reversed(intervals)]
        band = line([*sizes, *reversed(sizes)], outline, "95 % interval", "band", 0)
        data = [band | {"fill": "toself", "fillcolor": "@band", "hoverinfo": "skip"}]
    hover = {"hovertemplate": "%{x} networks: %{y:.4g}<extra></extra>"}
    data.append(line(sizes, values, "best k networks", "complete") | {"mode": "lines+markers"} | hover)
    if chosen:
        value = unit * getattr(chosen, metric)
        data.append(
            points([chosen.size], [value], "chosen ensemble", "ensemble", marker={"size": 11}) | hover
        )
    ticks = {"tickformat": "d", "dtick": 1} if len(sizes) <= 12 else {}
    layout = {"xaxis": axis("networks in the ensemble, k", **ticks), "yaxis": axis(title)}
    return Figure(data, layout)


def confidences(bins: Sequence[CalibrationBin]) -> Figure:
    """Return a histogram of the images by confidence."""
    counts = [each.count for each in bins]
    bars = {
        "type": "bar",
        "x": [each.confidence for each in bins],
        "y": counts,
        "width": 0.03,
        "marker": {"color": "@complete"},
        "hovertemplate": "%{y} images; mean confidence %{x:.3f}<extra></extra>",
    }
    vertical = scale(counts)
    if vertical:
        vertical["range"] = [-0.3, math.log10(max(counts)) + 0.2]  # a bin with one image needs a bar too
    layout = {"xaxis": axis("confidence", range=[0, 1.02]), "yaxis": axis("images", **vertical)}
    return Figure([bars], layout)


def reliability(bins: Sequence[CalibrationBin]) -> Figure:
    """Return the reliability diagram: accuracy by confidence, each bin with its 95 % interval."""
    intervals = [wilson_interval(each.correct, each.count) for each in bins]
    values = [each.accuracy for each in bins]
    trace = points([each.confidence for each in bins], values, "ensemble", "ensemble", marker={"size": 9})
    trace["error_y"] = {
        "type": "data",
        "array": [high - value for (_, high), value in zip(intervals, values, strict=True)],
        "arrayminus": [value - low for (low, _), value in zip(intervals, values, strict=True)],
        "color": "@ensemble",
        "thickness": 1.5,
        "width": 0,
    }
    trace["text"] = [f"{each.correct} of {each.count} correct" for each in bins]
    trace["hovertemplate"] = "%{text}; mean confidence %{x:.3f}<extra></extra>"
    diagonal = line([0, 1], [0, 1], "perfect calibration", "muted", 1, line={"dash": "dot"})
    layout = {
        "xaxis": axis("confidence", range=[0, 1.02]),
        "yaxis": axis("accuracy", range=[0, 1.04]),
    }
    return Figure([diagonal | {"hoverinfo": "skip"}, trace], layout)
