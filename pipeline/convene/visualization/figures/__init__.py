"""Figures for plotly.js: pure functions of measurements, with roles that a page replaces by colours."""

from convene.visualization.figures.figure import DARK, LIGHT, Figure, label
from convene.visualization.figures.parameters import importances, parallel_coordinates
from convene.visualization.figures.scores import Score, accuracies, confidences, ensemble_sizes, reliability
from convene.visualization.figures.search import LearningCurve, history, learning_curves
from convene.visualization.figures.trade_offs import (
    Candidate,
    ParetoPoint,
    pareto_figure,
    pareto_front,
    simplest,
    trade_off,
)

__all__ = [
    "DARK",
    "LIGHT",
    "Candidate",
    "Figure",
    "LearningCurve",
    "ParetoPoint",
    "Score",
    "accuracies",
    "confidences",
    "ensemble_sizes",
    "history",
    "importances",
    "label",
    "learning_curves",
    "parallel_coordinates",
    "pareto_figure",
    "pareto_front",
    "reliability",
    "simplest",
    "trade_off",
]
