"""Figures of the search: what was tried, how it went, and which parameters mattered."""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.figures.figure import Figure, axis, line, mark_size, points, scale, words

if TYPE_CHECKING:
    import optuna

Item = TypeVar("Item")

_CURVES = 60  # that are drawn beside the members': more would be a grey area
_LINES = 100  # of parallel coordinates, likewise
_BEST, _LEAST_BEST = 0.1, 3  # of them are marked


@dataclass(frozen=True)
class Course:
    """How a trial went: its number, how it ended, and the objective after each epoch."""

    trial: int
    state: str
    values: tuple[float, ...]
    reason: str | None = None

    @property
    def last(self) -> float:
        """The objective after the last epoch."""
        return self.values[-1]


def history(courses: Sequence[Course], objective: str, members: Iterable[int], minimize: bool) -> Figure:
    """Each trial's last value by its number; the best so far; stopped and failed trials told apart."""
    scored = [course for course in courses if course.values and math.isfinite(course.last)]
    inside = set(members)
    complete = [course for course in scored if course.state == "COMPLETE"]
    stopped = [course for course in scored if course.state == "PRUNED"]
    failed = [course for course in courses if course.state == "FAIL"]
    best = list(itertools.accumulate((course.last for course in complete), min if minimize else max))
    numbers, size = [course.trial for course in complete], mark_size(len(scored))
    data = [
        line(numbers, best, "best so far", "single", 1.5, line={"shape": "hv"}, hoverinfo="skip"),
        _ends(stopped, "stopped early", "stopped", {"symbol": "circle-open", "size": size}),
        _ends(complete, "complete", "complete", {"size": size}),
        _ends(
            [course for course in complete if course.trial in inside],
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


def learning_curves(courses: Sequence[Course], objective: str, members: Iterable[int]) -> Figure:
    """The objective by epoch: the ensemble's members, and as many others as can be told apart."""
    inside = set(members)
    scored = [course for course in courses if course.values]
    others = evenly(
        sorted((c for c in scored if c.trial not in inside), key=lambda c: (c.state, c.last)), _CURVES
    )
    groups = [
        ("stopped early", "stopped", 1.0, [c for c in others if c.state != "COMPLETE"]),
        ("complete", "complete", 1.0, [c for c in others if c.state == "COMPLETE"]),
        ("in the ensemble", "ensemble", 2.0, [c for c in scored if c.trial in inside]),
    ]
    data = [_joined(group, name, role, width) for name, role, width, group in groups if group]
    drawn = [value for *_, group in groups for course in group for value in course.values]
    return Figure(data, {"xaxis": axis("epoch"), "yaxis": axis(words(objective), **scale(drawn))}, height=380)


def importances(study: "optuna.Study", which: int) -> Figure | None:
    """Optuna's parameter importances for one of the objectives, or None where too few trials tell.

    Drawn here, because Optuna's own bars copy all trials once for each parameter: seconds, of a thousand.
    """
    from optuna.importance import get_param_importances

    ranked = _ranked(study, which)
    if not _vary(ranked, which):
        return None
    shares = get_param_importances(_study_of(ranked, study, which))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": list(shares.values()),
        "y": list(shares),
        "width": 0.6,
        "marker": {"color": "@ensemble"},
        "text": [f"{share:.2f}" if share >= 0.01 else "< 0.01" for share in shares.values()],
        "textposition": "outside",
        "textfont": {"color": "@muted"},
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    layout = {
        "xaxis": axis("importance", range=[0, 1.15 * max(shares.values())]),
        "yaxis": {"autorange": "reversed", "showgrid": False},
        "margin": {"t": 8},
    }
    return Figure([bars], layout, height=66 + 28 * len(shares))


def parallel_coordinates(study: "optuna.Study", which: int, objective: str) -> Figure | None:
    """Optuna's parallel coordinates of one of the objectives, the best trials marked, or None.

    Of many trials the best, and every so many of the others, are drawn; none where all are alike.
    """
    from optuna.visualization import plot_parallel_coordinate

    ranked = _ranked(study, which)
    if not _vary(ranked, which):
        return None
    best = max(math.ceil(_BEST * min(len(ranked), _LINES)), min(_LEAST_BEST, len(ranked) // 2))
    drawn = [*ranked[:best], *evenly(ranked[best:], _LINES - best)]
    figure = _plain(plot_parallel_coordinate(_study_of(drawn, study, which), target_name=objective))
    # Optuna changes their order; the first coordinate is the objective, and the best are to lie on top.
    curves = [trace for trace in figure.data if trace["mode"] == "lines"]
    curves.sort(key=lambda trace: trace["y"][0], reverse=_minimizes(study, which))
    names = [words(objective), *(words(name) for name in sorted({n for t in drawn for n in t.params}))]
    for place, trace in enumerate(reversed(curves)):
        of_the_best = place < best
        trace |= {
            "line": {
                "color": "@ensemble" if of_the_best else "@complete",
                "width": 1.8 if of_the_best else 1,
            },
            "opacity": 0.9 if of_the_best else 0.4,
            # Optuna cuts long names off.
            "customdata": [
                [name, value] for name, (_, value) in zip(names, trace["customdata"], strict=True)
            ],
        }
    layout = {key: figure.layout[key] for key in ("xaxis", "yaxis", "shapes")}
    layout["annotations"] = _whole_ticks(figure.layout["annotations"], drawn)
    layout["xaxis"] |= {
        "ticktext": [name.replace(" ", "<br>") for name in names],
        "range": [-0.45, len(names) - 0.7],
    }
    for shape in layout["shapes"]:
        shape["line"]["color"] = "@muted"
    return Figure(
        curves, layout | {"hovermode": "closest", "margin": {"t": 12}}, height=360, width=100 * len(names)
    )


def _whole_ticks(
    annotations: list[dict[str, Any]], trials: Sequence["optuna.trial.FrozenTrial"]
) -> list[dict[str, Any]]:
    """Optuna's ticks in the page's colour, without 2.5 on an axis of whole numbers."""
    from optuna.distributions import IntDistribution

    names = sorted({name for trial in trials for name in trial.params})
    kinds = {name: kind for trial in trials for name, kind in trial.distributions.items()}
    whole = {place for place, name in enumerate(names, 1) if isinstance(kinds[name], IntDistribution)}
    return [
        tick | {"font": {"size": 10.5, "color": "@muted"}, "bgcolor": "@paper", "borderpad": 0}
        for tick in annotations
        if tick["x"] not in whole or "." not in tick["text"]
    ]


def _ends(courses: Sequence[Course], name: str, role: str, marker: dict[str, Any]) -> dict[str, Any]:
    return points(
        [course.trial for course in courses],
        [course.last for course in courses],
        name,
        role,
        marker=marker,
        text=[f"trial {course.trial}, {len(course.values)} epochs: {course.last:.4g}" for course in courses],
        hoverinfo="text",
    )


def _joined(courses: Sequence[Course], name: str, role: str, width: float) -> dict[str, Any]:
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


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """All items, or the first, the last and what lies evenly between them, `most` in all."""
    if len(items) <= most:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, most)]


def _ranked(study: "optuna.Study", which: int) -> list["optuna.trial.FrozenTrial"]:
    """The complete trials with a finite value of the objective, best first."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1 if _minimizes(study, which) else -1
    finite = [trial for trial in trials if math.isfinite(trial.values[which])]
    return sorted(finite, key=lambda trial: sign * trial.values[which])


def _minimizes(study: "optuna.Study", which: int) -> bool:
    return study.directions[which].name == "MINIMIZE"


def _vary(trials: Sequence["optuna.trial.FrozenTrial"], which: int) -> bool:
    """Whether there are trials with different values, and parameters that they differ in."""
    return len({trial.values[which] for trial in trials}) > 1 and len({str(t.params) for t in trials}) > 1


def _study_of(
    trials: Sequence["optuna.trial.FrozenTrial"], study: "optuna.Study", which: int
) -> "optuna.Study":
    """These trials by the one objective that a figure is about."""
    import optuna

    alone = optuna.create_study(direction=study.directions[which])
    for trial in trials:
        of_one = optuna.trial.create_trial(
            params=trial.params, distributions=trial.distributions, value=trial.values[which]
        )
        alone.add_trial(of_one)
    return alone


def _plain(figure: Any) -> Figure:
    """A plotly figure as plain lists and numbers."""
    content = json.loads(figure.to_json())
    return Figure(content["data"], content["layout"])
