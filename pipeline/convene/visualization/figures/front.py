"""The trade-offs of several objectives: the trials that no other beats in all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convene.visualization.figures.figure import Figure, axis, mark_size, points, scale, words


@dataclass(frozen=True)
class Weighed:
    """A complete trial in two of the objectives: what it costs in one, and how good it is in the other."""

    trial: int
    cost: float
    quality: float
    unbeaten: bool
    """Whether no other trial is as good in all objectives, those of other pictures too, and better in one."""


def front(weighed: Sequence[Weighed], cost: str, quality: str) -> Figure:
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
    weighed: Sequence[Weighed], name: str, role: str, marker: dict[str, Any], cost: str, quality: str
) -> dict[str, Any]:
    text = [
        f"trial {each.trial}: {words(quality)} {each.quality:.4g}, {words(cost)} {each.cost:.4g}"
        for each in weighed
    ]
    costs, qualities = [each.cost for each in weighed], [each.quality for each in weighed]
    more = {"text": text, "hovertemplate": "%{text}<extra></extra>"}
    return points(costs, qualities, name, role, marker=marker, **more)
