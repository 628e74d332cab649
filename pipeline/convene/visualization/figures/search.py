"""Figures of the search: the history of trials and their learning curves."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from convene.search.trial_state import TrialState
from convene.visualization.figures.figure import (
    Figure,
    axis,
    evenly_spaced,
    label,
    line,
    marker_size,
    points,
    scale,
)

_CURVES = 60  # drawn in addition to the members': more would blur into a grey area


@dataclass(frozen=True)
class LearningCurve:
    """A trial's state and its objective after each epoch."""

    trial: int
    state: TrialState
    values: tuple[float, ...]

    @property
    def last(self) -> float:
        """Return the objective after the last epoch."""
        return self.values[-1]


def history(
    curves: Sequence[LearningCurve], objective: str, members: Iterable[int], minimize: bool
) -> Figure:
    """Return a figure of each trial's last value by number, and the best value so far."""
    scored = [curve for curve in curves if curve.values and math.isfinite(curve.last)]
    member_set = set(members)
    complete = [curve for curve in scored if curve.state is TrialState.COMPLETE]
    stopped = [curve for curve in scored if curve.state is TrialState.PRUNED]
    failed = [curve for curve in curves if curve.state is TrialState.FAIL]
    best = list(itertools.accumulate((curve.last for curve in complete), min if minimize else max))
    numbers, size = [curve.trial for curve in complete], marker_size(len(scored))
    data = [
        line(numbers, best, "best so far", "single", 1.5, line={"shape": "hv"}, hoverinfo="skip"),
        _last_values(stopped, "stopped early", "stopped", {"symbol": "circle-open", "size": size}),
        _last_values(complete, "complete", "complete", {"size": size}),
        _last_values(
            [curve for curve in scored if curve.trial in member_set],
            "in the ensemble",
            "ensemble",
            {"size": 9},
        ),
    ]
    if failed:
        data.append(
            points(
                [curve.trial for curve in failed],
                [0.03] * len(failed),
                "failed",
                "failed",
                marker={"symbol": "x"},
                yaxis="y2",
                text=[f"trial {curve.trial} failed" for curve in failed],
                hoverinfo="text",
            )
        )
    layout = {
        "xaxis": axis("trial"),
        "yaxis": axis(label(objective), **scale([curve.last for curve in scored])),
        # Failed trials have no value; they are drawn at the lower edge.
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    }
    return Figure([trace for trace in data if trace["x"]], layout)


def learning_curves(curves: Sequence[LearningCurve], objective: str, members: Iterable[int]) -> Figure:
    """Return a figure of the objective by epoch for the ensemble's members and a limited number of others."""
    member_set = set(members)
    scored = [curve for curve in curves if curve.values]
    others = evenly_spaced(
        sorted((c for c in scored if c.trial not in member_set), key=lambda c: (c.state, c.last)), _CURVES
    )
    groups = [
        ("stopped early", "stopped", 1.0, [c for c in others if c.state is TrialState.PRUNED]),
        ("failed", "failed", 1.0, [c for c in others if c.state is TrialState.FAIL]),
        ("still running", "muted", 1.0, [c for c in others if c.state is TrialState.RUNNING]),
        ("complete", "complete", 1.0, [c for c in others if c.state is TrialState.COMPLETE]),
        ("in the ensemble", "ensemble", 2.0, [c for c in scored if c.trial in member_set]),
    ]
    data = [_join(group, name, role, width) for name, role, width, group in groups if group]
    drawn = [value for *_, group in groups for curve in group for value in curve.values]
    return Figure(data, {"xaxis": axis("epoch"), "yaxis": axis(label(objective), **scale(drawn))}, height=380)


def _last_values(
    curves: Sequence[LearningCurve], name: str, role: str, marker: dict[str, Any]
) -> dict[str, Any]:
    return points(
        [curve.trial for curve in curves],
        [curve.last for curve in curves],
        name,
        role,
        marker=marker,
        text=[f"trial {curve.trial}, {len(curve.values)} epochs: {curve.last:.4g}" for curve in curves],
        hoverinfo="text",
    )


def _join(curves: Sequence[LearningCurve], name: str, role: str, width: float) -> dict[str, Any]:
    """Return many curves as one trace with gaps; one trace per curve would take plotly seconds."""
    epochs: list[int | None] = []
    values: list[float | None] = []
    texts: list[str] = []
    for curve in curves:
        epochs += [*range(1, len(curve.values) + 1), None]
        values += [*(value if math.isfinite(value) else None for value in curve.values), None]
        texts += [f"trial {curve.trial}"] * (len(curve.values) + 1)
    dash = {"dash": "dot"} if role == "stopped" else {}
    template = "%{text}, epoch %{x}: %{y:.4g}<extra></extra>"
    faint = {} if role == "ensemble" else {"opacity": 0.6}
    return line(epochs, values, name, role, width, line=dash, text=texts, hovertemplate=template) | faint
