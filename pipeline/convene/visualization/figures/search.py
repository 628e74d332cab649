"""Figures of the search: what was tried, and how it went."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from convene.search.trial_state import TrialState
from convene.visualization.figures.figure import Figure, axis, evenly, line, mark_size, points, scale, words

_CURVES = 60  # that are drawn beside the members': more would be a grey area


@dataclass(frozen=True)
class LearningCurve:
    """How a trial went: its number, how it ended, and the objective after each epoch."""

    trial: int
    state: TrialState
    values: tuple[float, ...]

    @property
    def last(self) -> float:
        """The objective after the last epoch."""
        return self.values[-1]


def history(
    courses: Sequence[LearningCurve], objective: str, members: Iterable[int], minimize: bool
) -> Figure:
    """Each trial's last value by its number; the best so far; stopped and failed trials told apart."""
    scored = [course for course in courses if course.values and math.isfinite(course.last)]
    inside = set(members)
    complete = [course for course in scored if course.state is TrialState.COMPLETE]
    stopped = [course for course in scored if course.state is TrialState.PRUNED]
    failed = [course for course in courses if course.state is TrialState.FAIL]
    best = list(itertools.accumulate((course.last for course in complete), min if minimize else max))
    numbers, size = [course.trial for course in complete], mark_size(len(scored))
    data = [
        line(numbers, best, "best so far", "single", 1.5, line={"shape": "hv"}, hoverinfo="skip"),
        _ends(stopped, "stopped early", "stopped", {"symbol": "circle-open", "size": size}),
        _ends(complete, "complete", "complete", {"size": size}),
        _ends(
            [course for course in scored if course.trial in inside],
            "in the ensemble",
            "ensemble",
            {"size": 9},
        ),
    ]
    if failed:
        data.append(
            points(
                [course.trial for course in failed],
                [0.03] * len(failed),
                "failed",
                "failed",
                marker={"symbol": "x"},
                yaxis="y2",
                text=[f"trial {course.trial} failed" for course in failed],
                hoverinfo="text",
            )
        )
    layout = {
        "xaxis": axis("trial"),
        "yaxis": axis(words(objective), **scale([course.last for course in scored])),
        # Failed trials have no value; they stand at the lower edge.
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    }
    return Figure([trace for trace in data if trace["x"]], layout)


def learning_curves(courses: Sequence[LearningCurve], objective: str, members: Iterable[int]) -> Figure:
    """The objective by epoch: the ensemble's members, and as many others as can be told apart."""
    inside = set(members)
    scored = [course for course in courses if course.values]
    others = evenly(
        sorted((c for c in scored if c.trial not in inside), key=lambda c: (c.state, c.last)), _CURVES
    )
    groups = [
        ("stopped early", "stopped", 1.0, [c for c in others if c.state is TrialState.PRUNED]),
        ("failed", "failed", 1.0, [c for c in others if c.state is TrialState.FAIL]),
        ("still running", "muted", 1.0, [c for c in others if c.state is TrialState.RUNNING]),
        ("complete", "complete", 1.0, [c for c in others if c.state is TrialState.COMPLETE]),
        ("in the ensemble", "ensemble", 2.0, [c for c in scored if c.trial in inside]),
    ]
    data = [_joined(group, name, role, width) for name, role, width, group in groups if group]
    drawn = [value for *_, group in groups for course in group for value in course.values]
    return Figure(data, {"xaxis": axis("epoch"), "yaxis": axis(words(objective), **scale(drawn))}, height=380)


def _ends(courses: Sequence[LearningCurve], name: str, role: str, marker: dict[str, Any]) -> dict[str, Any]:
    return points(
        [course.trial for course in courses],
        [course.last for course in courses],
        name,
        role,
        marker=marker,
        text=[f"trial {course.trial}, {len(course.values)} epochs: {course.last:.4g}" for course in courses],
        hoverinfo="text",
    )


def _joined(courses: Sequence[LearningCurve], name: str, role: str, width: float) -> dict[str, Any]:
    """Many curves as one trace, with gaps between them: a trace a curve would take plotly seconds."""
    epochs: list[int | None] = []
    values: list[float | None] = []
    texts: list[str] = []
    for course in courses:
        epochs += [*range(1, len(course.values) + 1), None]
        values += [*(value if math.isfinite(value) else None for value in course.values), None]
        texts += [f"trial {course.trial}"] * (len(course.values) + 1)
    dash = {"dash": "dot"} if role == "stopped" else {}
    template = "%{text}, epoch %{x}: %{y:.4g}<extra></extra>"
    faint = {} if role == "ensemble" else {"opacity": 0.6}
    return line(epochs, values, name, role, width, line=dash, text=texts, hovertemplate=template) | faint
