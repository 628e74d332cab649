"""Trade-offs: accuracy against parameters and time, and the Pareto front of several objectives."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Literal

from convene.training.metrics import wilson_interval
from convene.visualization.figures.figure import Figure, axis, line, mark_size, points, scale, words

Cost = Literal["parameters", "latency_ms"]

_TITLES = {"parameters": "parameters", "latency_ms": "milliseconds for one image"}
_ONE_ERROR = 0.6827  # the confidence of one standard error either way


@dataclass(frozen=True)
class Candidate:
    """A complete trial: what its network gets right of the validation images, and what it costs."""

    trial: int
    valid_accuracy: float
    parameters: int
    latency_ms: float | None


def pareto_front(candidates: Sequence[Candidate], cost: Cost) -> list[Candidate]:
    """Those that no other beats in one of accuracy and cost without losing in the other; cheapest first."""
    front: list[Candidate] = []
    for candidate in sorted(_with_cost(candidates, cost), key=lambda c: (_cost(c, cost), -c.valid_accuracy)):
        if not front or candidate.valid_accuracy > front[-1].valid_accuracy:
            front.append(candidate)
    return front


def simplest(candidates: Sequence[Candidate], images: int) -> Candidate:
    """The network with the fewest parameters that is within one standard error of the most accurate.

    The error is that of the best one's accuracy on so many validation images, by Wilson's interval, which is
    not zero where all are right. Source: Breiman et al., Classification and Regression Trees (1984), 3.4.3,
    the one-standard-error rule.
    """
    best = max(candidate.valid_accuracy for candidate in candidates)
    low, _ = wilson_interval(round(best * images), images, _ONE_ERROR)
    good = [candidate for candidate in candidates if candidate.valid_accuracy >= low]
    return min(good, key=lambda candidate: (candidate.parameters, -candidate.valid_accuracy))


def trade_off(candidates: Sequence[Candidate], cost: Cost, chosen: Candidate) -> Figure:
    """Validation accuracy against a cost: the Pareto front as a line, the chosen network ringed."""
    priced, front = _with_cost(candidates, cost), pareto_front(candidates, cost)
    rest = [candidate for candidate in priced if candidate not in front]
    ring = {"symbol": "circle-open", "size": 17, "line": {"width": 2.5}}
    small = {"size": mark_size(len(rest))}
    template = {"hovertemplate": "%{text}<extra></extra>"}
    data = [
        points(*_places(rest, cost), "other networks", "complete", text=_texts(rest), marker=small)
        | template,
        line(*_places(front, cost), "Pareto front", "ensemble", 1.5, text=_texts(front))
        | {"mode": "lines+markers", "marker": {"size": 9, "color": "@ensemble"}}
        | template,
    ]
    if chosen in priced:
        name = f"trial {chosen.trial}"
        data.append(points(*_places([chosen], cost), name, "single", marker=ring) | {"hoverinfo": "skip"})
    accuracies = [100 * candidate.valid_accuracy for candidate in priced]
    layout = {
        "xaxis": axis(_TITLES[cost], **scale([_cost(candidate, cost) for candidate in priced])),
        "yaxis": axis("right, in % of validation", range=_upper(accuracies, 100 * front[0].valid_accuracy)),
    }
    return Figure([trace for trace in data if trace["x"]], layout)


def _upper(values: Sequence[float], needed: float) -> list[float]:
    """From the lower quartile, or what is needed below it, to the top: a poor trial hides the good ones."""
    low = min(needed, quantiles(values, n=4)[0] if len(values) > 1 else values[0])
    margin = 0.08 * (max(values) - low) or 0.5
    return [low - margin, max(values) + margin]


def _with_cost(candidates: Sequence[Candidate], cost: Cost) -> list[Candidate]:
    return [candidate for candidate in candidates if getattr(candidate, cost) is not None]


def _cost(candidate: Candidate, cost: Cost) -> float:
    return float(getattr(candidate, cost))


def _places(candidates: Sequence[Candidate], cost: Cost) -> tuple[list[float], list[float]]:
    return [_cost(c, cost) for c in candidates], [100 * c.valid_accuracy for c in candidates]


def _texts(candidates: Sequence[Candidate]) -> list[str]:
    return [
        f"trial {c.trial}: {c.valid_accuracy:.2%}, {c.parameters:,} parameters"
        + (f", {c.latency_ms:.2g} ms" if c.latency_ms is not None else "")
        for c in candidates
    ]


@dataclass(frozen=True)
class ParetoPoint:
    """A complete trial in two of the objectives: what it costs in one, and how good it is in the other."""

    trial: int
    cost: float
    quality: float
    unbeaten: bool
    """Whether no other trial is as good in all objectives, those of other pictures too, and better in one."""


def front(weighed: Sequence[ParetoPoint], cost: str, quality: str) -> Figure:
    """The objective of validation against another; with three or more, what is unbeaten may look beaten."""
    rest = [each for each in weighed if not each.unbeaten]
    best = sorted((each for each in weighed if each.unbeaten), key=lambda each: each.cost)
    data = [
        _marks(rest, "other trials", "complete", {"size": mark_size(len(rest))}, cost, quality),
        _marks(best, "Pareto front", "ensemble", {"size": 9}, cost, quality),
    ]
    layout = {
        "xaxis": axis(words(cost), **scale([each.cost for each in weighed])),
        "yaxis": axis(words(quality), **scale([each.quality for each in weighed])),
    }
    return Figure([trace for trace in data if trace["x"]], layout)


def _marks(
    weighed: Sequence[ParetoPoint], name: str, role: str, marker: dict[str, Any], cost: str, quality: str
) -> dict[str, Any]:
    text = [
        f"trial {each.trial}: {words(quality)} {each.quality:.4g}, {words(cost)} {each.cost:.4g}"
        for each in weighed
    ]
    costs, qualities = [each.cost for each in weighed], [each.quality for each in weighed]
    more = {"text": text, "hovertemplate": "%{text}<extra></extra>"}
    return points(costs, qualities, name, role, marker=marker, **more)
