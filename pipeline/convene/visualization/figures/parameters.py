"""Figures of the searched parameters, by what Optuna computes of them."""

import json
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convene.visualization.figures.figure import Figure, axis, evenly, words

if TYPE_CHECKING:
    import optuna

_LINES = 100  # that are drawn: more would be a grey area
_BEST, _LEAST_BEST = 0.1, 3  # of them are marked


def importances(study: "optuna.Study", which: int) -> Figure | None:
    """Optuna's parameter importances for one of the objectives, or None where too few trials tell.

    Drawn here, because Optuna's own bars copy all trials once for each parameter: seconds, of a thousand.
    """
    from optuna.importance import get_param_importances

    ranked = _ranked(study, which)
    if not _vary(ranked, which):
        return None
    with warnings.catch_warnings():
        # Optuna's, where few trials have a parameter with a condition; the caption calls them a hint.
        warnings.simplefilter("ignore")
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
