"""Figures for plotly.js: pure functions of what was measured. Colours are roles, which a page resolves."""

from convene.visualization.figures.figure import DARK, LIGHT, Figure, words
from convene.visualization.figures.parameters import importances, parallel_coordinates
from convene.visualization.figures.scores import Score, accuracies, confidences, ensemble_sizes, reliability
from convene.visualization.figures.search import LearningCurve, history, learning_curves
from convene.visualization.figures.trade_offs import (
    Candidate,
    ParetoPoint,
    front,
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
    "front",
    "history",
    "importances",
    "learning_curves",
    "parallel_coordinates",
    "pareto_front",
    "reliability",
    "simplest",
    "trade_off",
    "words",
]
