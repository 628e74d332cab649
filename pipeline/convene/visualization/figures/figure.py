"""Building blocks of all figures: colour roles, traces, axes and labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item")

# Colours of the roles (`@ensemble` in a figure) on light and dark pages. Blue and orange can be distinguished
# with any kind of colour vision, and differ from the greys in lightness too.
LIGHT = {
    "paper": "#ffffff",
    "ink": "#1d2329",
    "muted": "#5b6570",
    "line": "#d9dee3",
    "panel": "#f4f6f8",
    "ensemble": "#0f5fa8",
    "band": "rgba(15, 95, 168, 0.14)",
    "single": "#b85c00",
    "complete": "#7b8794",
    "stopped": "#a6b0ba",
    "failed": "#a3372b",
}
DARK = {
    "paper": "#14181c",
    "ink": "#e6eaee",
    "muted": "#9aa5b1",
    "line": "#323a43",
    "panel": "#1c2228",
    "ensemble": "#6db3f2",
    "band": "rgba(109, 179, 242, 0.18)",
    "single": "#f0a04b",
    "complete": "#94a0ac",
    "stopped": "#69747f",
    "failed": "#ef8377",
}


@dataclass(frozen=True)
class Figure:
    """Traces and a layout for plotly.js, with roles such as `@ink` instead of colours."""

    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 340
    """Pixels."""
    width: int = 0
    """Minimum width in pixels; narrower pages scroll the figure."""


def points(x: list[Any], y: list[Any], name: str, role: str, **more: Any) -> dict[str, Any]:
    """Return a trace of markers in a role's colour; `marker` adds to their style."""
    marker = {"color": f"@{role}", "size": 7, **more.pop("marker", {})}
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "name": name, "marker": marker, **more}


def line(x: list[Any], y: list[Any], name: str, role: str, width: float = 2, **more: Any) -> dict[str, Any]:
    """Return a trace of lines in a role's colour; `line` adds to their style."""
    style = {"color": f"@{role}", "width": width, **more.pop("line", {})}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": style, **more}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title."""
    return {"title": {"text": title}, **more}


def scale(values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis if the values span more than a factor of three, otherwise a linear one."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0 or max(finite) <= 3 * min(finite):
        return {}
    low, high = math.log10(min(finite)), math.log10(max(finite))
    margin = 0.05 * (high - low)
    steps = (1, 1.5, 2, 3, 5, 7) if high - low < 1 else (1, 2, 5) if high - low < 3 else (1,)
    ticks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high)) for step in steps]
    # Listed explicitly, because plotly.js labels 0.02 as 2.
    return {
        "type": "log",
        "range": [low - margin, high + margin],
        "tickvals": ticks,
        "ticktext": [_short(tick) for tick in ticks],
    }


def _short(tick: float) -> str:
    """Return a tick label: 0.02, 5, 20k, 3M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if tick >= size:
            return f"{tick / size:g}{letter}"
    return f"{tick:g}"


def evenly_spaced(items: Sequence[Item], limit: int) -> list[Item]:
    """Return at most `limit` evenly spaced items, including the first and the last."""
    if len(items) <= limit:
        return list(items)
    return [items[round(position)] for position in np.linspace(0, len(items) - 1, limit)]


def marker_size(count: int) -> float:
    """Return the marker size in pixels at which up to a thousand markers remain distinguishable."""
    return 7 if count <= 200 else 4.5


def label(name: str) -> str:
    """Return a readable name of a parameter or metric: "learning rate", "validation loss"."""
    return name.rpartition(".")[2].replace("valid_", "validation ").replace("_", " ")
