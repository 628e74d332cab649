"""Figures of trade-offs: accuracy by network size and latency, and Pareto fronts."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Literal

from convene.training.metrics import wilson_interval
from convene.visualization.figures.figure import Figure, axis, label, line, marker_size, points, scale

Cost = Literal["parameters", "latency_ms"]

_TITLES = {"parameters": "parameters", "latency_ms": "milliseconds per image"}
_ONE_STANDARD_ERROR = 0.6827  # confidence of an interval of one standard error either way


@dataclass(frozen=True)
class Candidate:
    """A complete trial: the accuracy, size and latency of its network."""

    trial: int
    valid_accuracy: float
    parameters: int
    latency_ms: float | None


def pareto_front(candidates: Sequence[Candidate], cost: Cost) -> list[Candidate]:
    """Return the candidates that no other dominates in accuracy and cost, cheapest first."""
    front: list[Candidate] = []
    for candidate in sorted(_with_cost(candidates, cost), key=lambda c: (_cost(c, cost), -c.valid_accuracy)):
        if not front or candidate.valid_accuracy > front[-1].valid_accuracy:
            front.append(candidate)
    return front


def simplest(candidates: Sequence[Candidate], images: int) -> Candidate:
    """Return the smallest network whose accuracy is within one standard error of the best.

    The standard error of the best accuracy on `images` validation images is taken from Wilson's interval,
    which is not zero for an accuracy of 1. Source: Breiman et al., Classification and Regression Trees
    (1984), 3.4.3, the one-standard-error rule.
    """
    best = max(candidate.valid_accuracy for candidate in candidates)
    low, _ = wilson_interval(round(best * images), images, _ONE_STANDARD_ERROR)
    good = [candidate for candidate in candidates if candidate.valid_accuracy >= low]
    return min(good, key=lambda candidate: (candidate.parameters, -candidate.valid_accuracy))


def trade_off(candidates: Sequence[Candidate], cost: Cost, chosen: Candidate) -> Figure:
    """Return a figure of validation accuracy by cost, with the Pareto front and a ring around `chosen`."""
    measured, front = _with_cost(candidates, cost), pareto_front(candidates, cost)
    rest = [candidate for candidate in measured if candidate not in front]
    ring = {"symbol": "circle-open", "size": 17, "line": {"width": 2.5}}
    small = {"size": marker_size(len(rest))}
    template = {"hovertemplate": "%{text}<extra></extra>"}
    data = [
        points(*_coordinates(rest, cost), "other networks", "complete", text=_hover_texts(rest), marker=small)
        | template,
        line(*_coordinates(front, cost), "Pareto front", "ensemble", 1.5, text=_hover_texts(front))
        | {"mode": "lines+markers", "marker": {"size": 9, "color": "@ensemble"}}
        | template,
    ]
    if chosen in measured:
        name = f"trial {chosen.trial}"
        data.append(
            points(*_coordinates([chosen], cost), name, "single", marker=ring) | {"hoverinfo": "skip"}
        )
    accuracies = [100 * candidate.valid_accuracy for candidate in measured]
    layout = {
        "xaxis": axis(_TITLES[cost], **scale([_cost(candidate, cost) for candidate in measured])),
        "yaxis": axis(
            "validation accuracy (%)", range=_upper_range(accuracies, 100 * front[0].valid_accuracy)
        ),
    }
    return Figure([trace for trace in data if trace["x"]], layout)


def _upper_range(values: Sequence[float], included: float) -> list[float]:
    """Return an axis range that starts at the lower quartile, or at `included` if that is lower."""
    low = min(included, quantiles(values, n=4)[0] if len(values) > 1 else values[0])
    margin = 0.08 * (max(values) - low) or 0.5
    return [low - margin, max(values) + margin]


def _with_cost(candidates: Sequence[Candidate], cost: Cost) -> list[Candidate]:
    return [candidate for candidate in candidates if getattr(candidate, cost) is not None]


def _cost(candidate: Candidate, cost: Cost) -> float:
    return float(getattr(candidate, cost))


def _coordinates(candidates: Sequence[Candidate], cost: Cost) -> tuple[list[float], list[float]]:
    return [_cost(c, cost) for c in candidates], [100 * c.valid_accuracy for c in candidates]


def _hover_texts(candidates: Sequence[Candidate]) -> list[str]:
    return [
        f"trial {c.trial}: {c.valid_accuracy:.2%}, {c.parameters:,} parameters"
        + (f", {c.latency_ms:.2g} ms" if c.latency_ms is not None else "")
        for c in candidates
    ]


@dataclass(frozen=True)
class ParetoPoint:
    """A complete trial's values of two objectives."""

    trial: int
    cost: float
    value: float
    """The primary objective."""
    on_front: bool
    """True if no other trial dominates it in all objectives together."""


def pareto_figure(trials: Sequence[ParetoPoint], cost: str, objective: str) -> Figure:
    """Return a figure of the primary objective by another one, with the Pareto front.

    With three or more objectives, a trial on the front may look dominated in two of them.
    """
    rest = [point for point in trials if not point.on_front]
    best = sorted((point for point in trials if point.on_front), key=lambda point: point.cost)
    data = [
        _markers(rest, "other trials", "complete", {"size": marker_size(len(rest))}, cost, objective),
        _markers(best, "Pareto front", "ensemble", {"size": 9}, cost, objective),
    ]
    layout = {
        "xaxis": axis(label(cost), **scale([point.cost for point in trials])),
        "yaxis": axis(label(objective), **scale([point.value for point in trials])),
    }
    return Figure([trace for trace in data if trace["x"]], layout)


def _markers(
    trials: Sequence[ParetoPoint], name: str, role: str, marker: dict[str, Any], cost: str, objective: str
) -> dict[str, Any]:
    text = [
        f"trial {point.trial}: {label(objective)} {point.value:.4g}, {label(cost)} {point.cost:.4g}"
        for point in trials
    ]
    costs, values = [point.cost for point in trials], [point.value for point in trials]
    more = {"text": text, "hovertemplate": "%{text}<extra></extra>"}
    return points(costs, values, name, role, marker=marker, **more)
