"""Figures of what came out: accuracies with their intervals, ensembles by size, confidence against truth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convene.ensemble.diagnostics import CalibrationBin
from convene.ensemble.selection import EnsembleScore
from convene.training.metrics import wilson_interval
from convene.visualization.figures.figure import Figure, axis, line, points, scale


@dataclass(frozen=True)
class Score:
    """An accuracy with its interval, as shares of 1, and the role that it is drawn in."""

    name: str
    accuracy: float
    interval: tuple[float, float]
    role: str


def accuracies(scores: Sequence[Score]) -> Figure:
    """Accuracies with their intervals, one below the other."""
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
        between = f"{100 * low:.2f} to {100 * high:.2f} %"
        trace["hovertemplate"] = f"%{{x:.2f}} %<br>95 %: {between}<extra></extra>"
        data.append(trace)
    layout = {
        "xaxis": axis("right, in % of the test images"),
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category", "showgrid": False},
        "showlegend": False,
        "margin": {"t": 8},
    }
    return Figure(data, layout, height=60 + 30 * len(scores))


def ensemble_sizes(
    ensembled: Sequence[EnsembleScore], chosen: EnsembleScore | None, images: int, measure: str
) -> Figure:
    """A measure of the best k networks' ensemble by k; an accuracy with its 95 % band.

    Args:
        ensembled: by rising size.
        chosen: is marked. It may be of other networks, if trials were added since.
        images: that the measure was taken on.
        measure: `valid_accuracy` or `valid_loss`.
    """
    sizes = [each.size for each in ensembled]
    unit = 1 if measure == "valid_loss" else 100
    values, title, data = [unit * getattr(each, measure) for each in ensembled], "loss, validation", []
    if measure == "valid_accuracy":
        title = "right, in % of validation"
        intervals = [wilson_interval(round(each.valid_accuracy * images), images) for each in ensembled]
        around = [100 * high for _, high in intervals] + [100 * low for low, _ in reversed(intervals)]
        band = line([*sizes, *reversed(sizes)], around, "95 % interval", "band", 0)
        data = [band | {"fill": "toself", "fillcolor": "@band", "hoverinfo": "skip"}]
    hover = {"hovertemplate": "%{x} networks: %{y:.4g}<extra></extra>"}
    data.append(line(sizes, values, "the best k", "complete") | {"mode": "lines+markers"} | hover)
    if chosen:
        at = unit * getattr(chosen, measure)
        data.append(points([chosen.size], [at], "as chosen", "ensemble", marker={"size": 11}) | hover)
    ticks = {"tickformat": "d", "dtick": 1} if len(sizes) <= 12 else {}
    layout = {"xaxis": axis("networks in the ensemble, k", **ticks), "yaxis": axis(title)}
    return Figure(data, layout)


def confidences(bins: Sequence[CalibrationBin]) -> Figure:
    """How many images lie in each bin of confidence."""
    counts = [each.count for each in bins]
    bars = {
        "type": "bar",
        "x": [each.confidence for each in bins],
        "y": counts,
        "width": 0.03,
        "marker": {"color": "@complete"},
        "hovertemplate": "%{y} images; mean confidence %{x:.3f}<extra></extra>",
    }
    up = scale(counts)
    if up:
        up["range"] = [-0.3, math.log10(max(counts)) + 0.2]  # a bin of one image has a bar, too
    layout = {"xaxis": axis("confidence", range=[0, 1.02]), "yaxis": axis("images", **up)}
    return Figure([bars], layout)


def reliability(bins: Sequence[CalibrationBin]) -> Figure:
    """How often the ensemble is right by how sure it is: each bin with its 95 % interval."""
    intervals = [wilson_interval(each.correct, each.count) for each in bins]
    shares = [each.accuracy for each in bins]
    trace = points([each.confidence for each in bins], shares, "ensemble", "ensemble", marker={"size": 9})
    trace["error_y"] = {
        "type": "data",
        "array": [high - share for (_, high), share in zip(intervals, shares, strict=True)],
        "arrayminus": [share - low for (low, _), share in zip(intervals, shares, strict=True)],
        "color": "@ensemble",
        "thickness": 1.5,
        "width": 0,
    }
    trace["text"] = [f"{each.correct} of {each.count} right" for each in bins]
    trace["hovertemplate"] = "%{text}; mean confidence %{x:.3f}<extra></extra>"
    diagonal = line([0, 1], [0, 1], "exactly as sure as right", "muted", 1, line={"dash": "dot"})
    layout = {
        "xaxis": axis("confidence", range=[0, 1.02]),
        "yaxis": axis("share that is right", range=[0, 1.04]),
    }
    return Figure([diagonal | {"hoverinfo": "skip"}, trace], layout)
