"""Figures as data: valid for plotly, and faithful to their input."""

import json
import math
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from convene.ensemble.diagnostics import CalibrationBin
from convene.ensemble.selection import EnsembleScore
from convene.search.trial_state import TrialState
from convene.visualization import figures
from convene.visualization.figures import Candidate, Figure, LearningCurve, ParetoPoint, Score
from convene.visualization.figures.figure import evenly_spaced, scale

CURVES = [
    LearningCurve(0, TrialState.COMPLETE, (0.9, 0.5)),
    LearningCurve(1, TrialState.PRUNED, (1.2,)),
    LearningCurve(2, TrialState.FAIL, ()),
    LearningCurve(3, TrialState.COMPLETE, (0.8, 0.3)),
    LearningCurve(4, TrialState.COMPLETE, (0.7, 0.4)),
    LearningCurve(5, TrialState.PRUNED, (math.nan,)),
    LearningCurve(6, TrialState.RUNNING, ()),
]
CANDIDATES = [
    Candidate(0, 0.90, 1000, 0.5),
    Candidate(1, 0.98, 5000, 0.4),
    Candidate(2, 0.97, 3000, 0.9),
    Candidate(3, 0.96, 4000, 0.3),
    Candidate(4, 0.99, 90_000, None),
]
BINS = [CalibrationBin(10, 6, 0.62), CalibrationBin(200, 199, 0.99)]

Direction = Literal["minimize", "maximize"]


def create_study(count: int, direction: Direction = "minimize") -> optuna.Study:
    """Return a study whose values depend on the learning rate, with noise; half of the trials are pruned."""
    study = optuna.create_study(direction=direction)
    random = np.random.default_rng(0)
    for number in range(count):
        rate = float(10 ** random.uniform(-4, -1))
        depth = int(random.integers(1, 4))
        value = abs(math.log10(rate) + 2.5) + 0.01 * depth + 0.01 * random.normal()
        study.add_trial(
            create_trial(
                params={
                    "training.learning_rate": rate,
                    "network.depth": depth,
                    "network.width": [8, 16][number % 2],
                },
                distributions={
                    "training.learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
                    "network.depth": IntDistribution(1, 3),
                    "network.width": CategoricalDistribution([8, 16]),
                },
                state=OptunaState.PRUNED if number % 2 else OptunaState.COMPLETE,
                value=None if number % 2 else (value if direction == "minimize" else -value),
                intermediate_values={1: value},
            )
        )
    return study


def apply_palette(value: Any, palette: dict[str, str]) -> Any:
    """Replace roles by colours, as the page does."""
    if isinstance(value, str):
        return palette[value[1:]] if value.startswith("@") else value
    if isinstance(value, list):
        return [apply_palette(item, palette) for item in value]
    if isinstance(value, dict):
        return {key: apply_palette(item, palette) for key, item in value.items()}
    return value


def all_figures() -> dict[str, Figure | None]:
    scores = [EnsembleScore(k, 0.1 / k, 0.9 + 0.01 * k) for k in range(1, 6)]
    simplest = figures.simplest(CANDIDATES, 1000)
    return {
        "history": figures.history(CURVES, "valid_loss", [3], minimize=True),
        "curves": figures.learning_curves(CURVES, "valid_loss", [3]),
        "importances": figures.importances(create_study(40), 0),
        "parallel": figures.parallel_coordinates(create_study(40), 0, "valid_loss"),
        "accuracies": figures.accuracies([Score("ensemble", 0.9, (0.8, 0.95), "ensemble")]),
        "sizes_loss": figures.ensemble_sizes(scores, scores[2], 500, "valid_loss"),
        "sizes_accuracy": figures.ensemble_sizes(scores, None, 500, "valid_accuracy"),
        "reliability": figures.reliability(BINS),
        "confidences": figures.confidences(BINS),
        "parameters": figures.trade_off(CANDIDATES, "parameters", simplest),
        "latency": figures.trade_off(CANDIDATES, "latency_ms", simplest),
        "front": figures.pareto_figure(
            [ParetoPoint(1, 2e3, 0.4, True), ParetoPoint(2, 9e5, 0.1, True), ParetoPoint(3, 9e5, 0.3, False)],
            "parameters",
            "valid_loss",
        ),
    }


def test_plotly_accepts_every_figure_in_light_and_dark() -> None:
    import plotly.graph_objects as go

    assert figures.LIGHT.keys() == figures.DARK.keys()
    for name, figure in all_figures().items():
        assert figure and figure.data, name
        json.dumps([figure.data, figure.layout], allow_nan=False)
        for palette in (figures.LIGHT, figures.DARK):
            go.Figure(apply_palette(figure.data, palette), apply_palette(figure.layout, palette))


def luminance(colour: str) -> float:
    """Return the relative luminance as defined in WCAG 2.2."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("palette", [figures.LIGHT, figures.DARK], ids=["light", "dark"])
def test_text_and_markers_have_enough_contrast(palette: dict[str, str]) -> None:
    def contrast(role: str) -> float:
        pair = sorted([luminance(palette[role]), luminance(palette["paper"])])
        return (pair[1] + 0.05) / (pair[0] + 0.05)

    # WCAG 2.2 requires 4.5 for text and 3 for graphics; stopped trials are deliberately faint.
    assert min(contrast(role) for role in ("ink", "muted", "ensemble", "single", "failed")) >= 4.5
    assert contrast("complete") >= 3
    assert contrast("stopped") >= 2


def trace(figure: Figure | None, name: str) -> dict[str, Any]:
    assert figure
    [found] = [each for each in figure.data if each["name"] == name]
    return found


def test_the_history_distinguishes_stopped_and_failed_trials() -> None:
    figure = figures.history(CURVES, "valid_loss", [3], minimize=True)
    assert trace(figure, "stopped early")["x"] == [1]  # NaN is not drawn
    assert trace(figure, "complete")["x"] == [0, 3, 4]
    assert trace(figure, "in the ensemble")["x"] == [3]
    assert trace(figure, "failed")["x"] == [2]
    assert trace(figure, "best so far")["y"] == [0.5, 0.3, 0.3]
    upwards = figures.history(CURVES, "valid_accuracy", [], minimize=False)
    assert trace(upwards, "best so far")["y"] == [0.5, 0.5, 0.5]


def test_the_curves_of_a_group_are_one_trace_with_gaps() -> None:
    figure = figures.learning_curves(CURVES, "valid_loss", [3])
    assert trace(figure, "complete")["x"] == [1, 2, None, 1, 2, None]
    assert trace(figure, "complete")["y"] == [0.7, 0.4, None, 0.9, 0.5, None]
    assert trace(figure, "in the ensemble")["y"] == [0.8, 0.3, None]


def test_curves_of_running_trials_have_their_own_group() -> None:
    curves = [
        LearningCurve(0, TrialState.RUNNING, (0.9,)),
        LearningCurve(1, TrialState.FAIL, (0.8,)),
        LearningCurve(2, TrialState.PRUNED, (0.7,)),
    ]
    figure = figures.learning_curves(curves, "valid_loss", [])
    ends = {name: trace(figure, name)["y"] for name in ("still running", "failed", "stopped early")}
    assert ends == {"still running": [0.9, None], "failed": [0.8, None], "stopped early": [0.7, None]}


def test_stopped_trials_can_be_members_if_none_is_complete() -> None:
    figure = figures.history([LearningCurve(3, TrialState.PRUNED, (0.7,))], "valid_loss", [3], minimize=True)
    assert trace(figure, "in the ensemble")["x"] == [3]


@pytest.mark.parametrize("counts", [[359], [3, 2, 4], [1, 300], [2, 40, 5000]])
def test_all_confidence_bars_are_inside_the_axis(counts: list[int]) -> None:
    bins = [CalibrationBin(count, count, 0.9) for count in counts]
    axis = figures.confidences(bins).layout["yaxis"]
    if "range" in axis:  # otherwise plotly.js chooses one
        assert axis["type"] == "log"
        assert axis["range"][0] < 0 and axis["range"][1] > math.log10(max(counts))


def test_the_number_of_drawn_curves_and_lines_is_limited() -> None:
    many = [LearningCurve(number, TrialState.COMPLETE, (1 + number / 1000,)) for number in range(1000)]
    curves = figures.learning_curves(many, "valid_loss", [0, 1])
    assert trace(curves, "complete")["x"].count(None) == 60
    assert trace(curves, "in the ensemble")["x"].count(None) == 2
    parallel = figures.parallel_coordinates(create_study(600), 0, "valid_loss")
    assert parallel and len(parallel.data) == 100


@pytest.mark.parametrize(("count", "limit", "expected"), [(3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (0, 3, [])])
def test_evenly_spaced(count: int, limit: int, expected: list[int]) -> None:
    assert evenly_spaced(range(count), limit) == expected


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_parallel_coordinates_highlight_the_best_trials_and_draw_them_last(direction: Direction) -> None:
    study = create_study(60, direction)
    figure = figures.parallel_coordinates(study, 0, "valid_loss")
    assert figure
    values = sorted((t.value for t in study.trials if t.value is not None), reverse=direction == "maximize")
    highlighted = [each for each in figure.data if each["line"]["color"] == "@ensemble"]
    assert highlighted == figure.data[-3:]
    assert [float(each["customdata"][0][1]) for each in reversed(highlighted)] == pytest.approx(
        values[:3], rel=1e-2
    )
    assert figure.layout["xaxis"]["ticktext"] == ["validation<br>loss", "depth", "width", "learning<br>rate"]
    depths = [tick["text"] for tick in figure.layout["annotations"] if tick["x"] == 1]
    assert depths == ["1", "2", "3"]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_decisive_parameter_is_the_most_important(direction: Direction) -> None:
    figure = figures.importances(create_study(60, direction), 0)
    assert figure
    assert figure.data[0]["y"][0] == "training.learning_rate"
    assert sum(figure.data[0]["x"]) == pytest.approx(1)


def test_too_few_trials_have_neither_importances_nor_lines() -> None:
    for study in (create_study(0), create_study(1), create_study(2)):
        assert figures.importances(study, 0) is None
        assert figures.parallel_coordinates(study, 0, "valid_loss") is None


def test_no_candidate_dominates_the_pareto_front() -> None:
    assert [c.trial for c in figures.pareto_front(CANDIDATES, "parameters")] == [0, 2, 1, 4]
    # A network without a measured latency is not on the front of latencies.
    assert [c.trial for c in figures.pareto_front(CANDIDATES, "latency_ms")] == [3, 1]


@pytest.mark.parametrize(
    ("images", "chosen"),
    [
        (10_000, 4),  # one standard error below 0.99 is 0.989
        (100, 1),  # 0.974 by Wilson's interval at 68.27 %
        (20, 2),  # 0.93
    ],
)
def test_the_simplest_network_is_within_one_standard_error_of_the_best(images: int, chosen: int) -> None:
    assert figures.simplest(CANDIDATES, images).trial == chosen


def test_a_perfect_accuracy_still_has_a_standard_error() -> None:
    perfect = [Candidate(0, 1.0, 9000, 1.0), Candidate(1, 0.995, 100, 1.0), Candidate(2, 0.9, 10, 1.0)]
    assert figures.simplest(perfect, 100).trial == 1


def test_a_wide_range_has_a_logarithmic_axis_with_explicit_ticks() -> None:
    wide = scale([0.02, 0.5])
    assert wide["type"] == "log"
    assert dict(zip(wide["ticktext"], wide["tickvals"], strict=True))["0.05"] == pytest.approx(0.05)
    assert scale([1.0, 2.0]) == scale([0.0, 5.0]) == scale([]) == {}
