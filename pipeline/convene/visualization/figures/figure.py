"""What all figures have in common: roles instead of colours, and the layout that a page completes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item")

# The roles, as `@ensemble` in a figure, in a light and in a dark page. Blue and orange are told apart with
# any colour vision, and from the greys by lightness too.
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
    """Traces and layout as plotly.js takes them, but for the colours, which are roles such as `@ink`."""

    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 340
    """Pixels."""
    width: int = 0
    """Pixels that it needs at least; a narrower page scrolls it."""


def points(x: list[Any], y: list[Any], name: str, role: str, **more: Any) -> dict[str, Any]:
    """A trace of marks, in one role's colour; `marker` adds to it."""
    marker = {"color": f"@{role}", "size": 7, **more.pop("marker", {})}
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "name": name, "marker": marker, **more}


def line(x: list[Any], y: list[Any], name: str, role: str, width: float = 2, **more: Any) -> dict[str, Any]:
    """A trace of lines, in one role's colour; `line` adds to it."""
    style = {"color": f"@{role}", "width": width, **more.pop("line", {})}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": style, **more}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": title}, **more}


def scale(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis where the values span more than a factor of three, else a linear one."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0 or max(finite) <= 3 * min(finite):
        return {}
    low, high = math.log10(min(finite)), math.log10(max(finite))
    margin = 0.05 * (high - low)
    steps = (1, 1.5, 2, 3, 5, 7) if high - low < 1 else (1, 2, 5) if high - low < 3 else (1,)
    ticks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high)) for step in steps]
    # Listed, because plotly.js writes 2 where 0.02 is meant.
    return {
        "type": "log",
        "range": [low - margin, high + margin],
        "tickvals": ticks,
        "ticktext": [_short(tick) for tick in ticks],
    }


def _short(tick: float) -> str:
    """0.02, 5, 20k, 3M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if tick >= size:
            return f"{tick / size:g}{letter}"
    return f"{tick:g}"


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """All items, or the first, the last and what lies evenly between them, `most` in all."""
    if len(items) <= most:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, most)]


def mark_size(count: int) -> float:
    """Pixels across a mark, so that a thousand of them can still be told apart."""
    return 7 if count <= 200 else 4.5


def words(name: str) -> str:
    """A parameter's or measure's name without its section, in words: "learning rate", "validation loss"."""
    return name.rpartition(".")[2].replace("valid_", "validation ").replace("_", " ")
