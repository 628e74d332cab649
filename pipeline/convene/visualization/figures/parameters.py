"""Figures of the searched parameters, computed by Optuna."""

import json
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convene.visualization.figures.figure import Figure, axis, evenly_spaced, label

if TYPE_CHECKING:
    import optuna

_LINES = 100  # drawn trials: more would blur into a grey area
_BEST_SHARE, _MIN_BEST = 0.1, 3  # highlighted trials


def importances(study: "optuna.Study", objective_index: int) -> Figure | None:
    """Return Optuna's parameter importances for one objective, or None if too few trials differ.

    Optuna's own figure copies all trials once per parameter, which takes seconds for a thousand trials.
    """
    from optuna.importance import get_param_importances

    ranked = _ranked(study, objective_index)
    if not _differ(ranked, objective_index):
        return None
    with warnings.catch_warnings():
        # Optuna warns if few trials have a conditional parameter. The caption mentions the uncertainty.
        warnings.simplefilter("ignore")
        shares = get_param_importances(_single_objective_study(ranked, study, objective_index))
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


def parallel_coordinates(study: "optuna.Study", objective_index: int, objective: str) -> Figure | None:
    """Return Optuna's parallel coordinates for one objective with the best trials highlighted.

    Of many trials, only the best and an even selection of the others are drawn.

    Returns:
        The figure, or None if no trials differ.
    """
    from optuna.visualization import plot_parallel_coordinate

    ranked = _ranked(study, objective_index)
    if not _differ(ranked, objective_index):
        return None
    best = max(math.ceil(_BEST_SHARE * min(len(ranked), _LINES)), min(_MIN_BEST, len(ranked) // 2))
    drawn = [*ranked[:best], *evenly_spaced(ranked[best:], _LINES - best)]
    figure = _to_plain(
        plot_parallel_coordinate(
            _single_objective_study(drawn, study, objective_index), target_name=objective
        )
    )
    # Optuna changes the order. Sort by the objective, the first coordinate, to draw the best on top.
    curves = [trace for trace in figure.data if trace["mode"] == "lines"]
    curves.sort(key=lambda trace: trace["y"][0], reverse=_minimizes(study, objective_index))
    names = [label(objective), *(label(name) for name in sorted({n for t in drawn for n in t.params}))]
    for rank, trace in enumerate(reversed(curves)):
        is_best = rank < best
        trace |= {
            "line": {
                "color": "@ensemble" if is_best else "@complete",
                "width": 1.8 if is_best else 1,
            },
            "opacity": 0.9 if is_best else 0.4,
            # Optuna truncates long names.
            "customdata": [
                [name, value] for name, (_, value) in zip(names, trace["customdata"], strict=True)
            ],
        }
    layout = {key: figure.layout[key] for key in ("xaxis", "yaxis", "shapes")}
    layout["annotations"] = _clean_ticks(figure.layout["annotations"], drawn)
    layout["xaxis"] |= {
        "ticktext": [name.replace(" ", "<br>") for name in names],
        "range": [-0.45, len(names) - 0.7],
    }
    for shape in layout["shapes"]:
        shape["line"]["color"] = "@muted"
    return Figure(
        curves, layout | {"hovermode": "closest", "margin": {"t": 12}}, height=360, width=100 * len(names)
    )


def _clean_ticks(
    annotations: list[dict[str, Any]], trials: Sequence["optuna.trial.FrozenTrial"]
) -> list[dict[str, Any]]:
    """Return Optuna's tick labels in the page's colour, without fractions on integer axes."""
    from optuna.distributions import IntDistribution

    names = sorted({name for trial in trials for name in trial.params})
    distributions = {name: kind for trial in trials for name, kind in trial.distributions.items()}
    integers = {
        position for position, name in enumerate(names, 1) if isinstance(distributions[name], IntDistribution)
    }
    return [
        tick | {"font": {"size": 10.5, "color": "@muted"}, "bgcolor": "@paper", "borderpad": 0}
        for tick in annotations
        if tick["x"] not in integers or "." not in tick["text"]
    ]


def _ranked(study: "optuna.Study", objective_index: int) -> list["optuna.trial.FrozenTrial"]:
    """Return the complete trials with a finite value of the objective, best first."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1 if _minimizes(study, objective_index) else -1
    finite = [trial for trial in trials if math.isfinite(trial.values[objective_index])]
    return sorted(finite, key=lambda trial: sign * trial.values[objective_index])


def _minimizes(study: "optuna.Study", objective_index: int) -> bool:
    return study.directions[objective_index].name == "MINIMIZE"


def _differ(trials: Sequence["optuna.trial.FrozenTrial"], objective_index: int) -> bool:
    """Return whether the trials differ in their values and in their parameters."""
    return (
        len({trial.values[objective_index] for trial in trials}) > 1
        and len({str(t.params) for t in trials}) > 1
    )


def _single_objective_study(
    trials: Sequence["optuna.trial.FrozenTrial"], study: "optuna.Study", objective_index: int
) -> "optuna.Study":
    """Return a study of these trials with one of their objectives."""
    import optuna

    single = optuna.create_study(direction=study.directions[objective_index])
    for trial in trials:
        copy = optuna.trial.create_trial(
            params=trial.params, distributions=trial.distributions, value=trial.values[objective_index]
        )
        single.add_trial(copy)
    return single


def _to_plain(figure: Any) -> Figure:
    """Convert a plotly figure to plain lists and numbers."""
    content = json.loads(figure.to_json())
    return Figure(content["data"], content["layout"])
