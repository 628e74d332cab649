"""Pictures of images, filters, feature maps and predictions: arrays in, figures out. Needs no display."""

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from convene.formatting import percent

Pixels = NDArray[np.uint8]  # [channel, height, width]
Maps = NDArray[np.floating[Any]]  # [map, height, width]

# Blue, vermilion and grey are told apart with any kind of colour vision (Okabe and Ito 2008).
_BLUE, _VERMILION, _GREY, _BLACK = "#0072B2", "#D55E00", "#999999", "#333333"
_BETWEEN = 190  # the grey, of 255, of what separates images and maps
_DIVERGING = colormaps["RdBu_r"].with_extremes(bad=str(_BETWEEN / 255))
_NAME_LENGTH = 14  # characters of a class's name
_NUMBERED = 20  # classes whose confusions are written out as numbers
_NAMED = 40  # classes whose names stand at the confusion matrix
_SURE = 100  # images that the digits of a probability stand for
_BARS = 10  # classes whose probabilities are drawn
_DOTS = 150  # per inch
_CHARACTERS = 11  # of a title, per inch

_styled = matplotlib.rc_context(
    {
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.titlesize": 9,
        "figure.titlesize": 11,
        "text.parse_math": False,  # a class may be called "$5 or $10"
    }
)


@dataclass(frozen=True)
class Predicted:
    """An image with what was predicted for it."""

    name: str
    pixels: Pixels
    probabilities: NDArray[np.floating[Any]]  # [class]
    truth: int | None
    """The class that it has, where that is known."""

    @property
    def best(self) -> int:
        """The class with the largest probability."""
        return int(self.probabilities.argmax())


@_styled
def samples(classes: Sequence[str], images: Sequence[Sequence[Pixels]], title: str) -> Figure:
    """A row of images for each class. All have one size; what is between them is grey."""
    _, height, width = next(pixels for row in images for pixels in row).shape
    columns, gap = max(map(len, images)), max(1, width // 10)
    high, wide = height + gap, width + gap
    canvas = np.full((len(images) * high - gap, columns * wide - gap, 3), _BETWEEN, np.uint8)
    for number, row in enumerate(images):
        for column, pixels in enumerate(row):
            place = np.s_[number * high : number * high + height, column * wide : column * wide + width]
            canvas[place] = pixels.transpose(1, 2, 0)  # one channel stands for all three
    names = [_short(name) for name in classes]
    beside = 0.5 + 0.12 * max(map(len, names))  # inches that the longest takes
    figure = Figure(figsize=(0.8 * columns * wide / high + beside, 0.8 * len(images) + 0.6))
    _title(figure, title)
    axes = figure.subplots()
    axes.imshow(canvas)
    middles = np.arange(len(images)) * high + (height - 1) / 2
    axes.set_yticks(middles, names, fontsize=11)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@_styled
def filters(weights: Maps, limit: float, title: str) -> Figure:
    """A layer's filters as one grid; white is a weight of 0, full colour one of `limit` either way."""
    grid = montage(weights)
    height, width = _inches(grid, largest=7)
    figure = Figure(figsize=(width + 1.3, height + 0.5))
    _title(figure, title)
    axes = figure.subplots()
    drawn = _draw_maps(axes, grid, limit)
    figure.colorbar(drawn, ax=axes, label="weight", shrink=0.8)
    return figure


@_styled
def feature_maps(pixels: Pixels, stages: Sequence[tuple[str, Maps]], title: str) -> Figure:
    """An image, and what a layer makes of it in stages, each on a scale of its own with 0 in white."""
    figure = Figure(figsize=(2.2 + 5.4 * len(stages), 5.4))
    _title(figure, title)
    image, *places = figure.subplots(1, 1 + len(stages), width_ratios=[0.4, *[1] * len(stages)])
    _show(image, pixels)
    image.set_title("the image")
    for (name, maps), axes in zip(stages, places, strict=True):
        drawn = _draw_maps(axes, montage(maps), float(np.abs(maps).max()))
        _, height, width = maps.shape
        axes.set_title(f"{name}\n{len(maps)} maps of {height}×{width}")
        figure.colorbar(drawn, ax=axes, shrink=0.7)
    return figure


@_styled
def errors(wrong: Sequence[Predicted], classes: Sequence[str], title: str) -> Figure:
    """Wrongly predicted images, up to three a row."""
    columns = min(3, len(wrong))
    figure, grid = _grid(math.ceil(len(wrong) / columns), columns, cell=(2.1, 2.4), title=title)
    for axes in grid.flat[len(wrong) :]:
        axes.axis("off")
    for error, axes in zip(wrong, grid.flat, strict=False):
        _show_predicted(axes, error, classes)
    return figure


@_styled
def confusion(counts: NDArray[np.integer[Any]], classes: Sequence[str], title: str) -> Figure:
    """Images by truth (row) and prediction (column). Colour is for the errors: one looks for those."""
    number = len(classes)
    side = min(10.0, max(3.5, 0.55 * number))
    figure = Figure(figsize=(side + 1.5, side + 1))
    _title(figure, title)
    axes = figure.subplots()
    off_diagonal = np.ma.masked_array(counts, np.eye(number, dtype=bool))
    most = max(1, int(off_diagonal.max())) if number > 1 else 1
    drawn = axes.imshow(off_diagonal, cmap=_oranges(), vmin=0, vmax=most)
    if number > _NUMBERED:
        figure.colorbar(drawn, ax=axes, label="errors", shrink=0.7, ticks=MaxNLocator(integer=True))
    else:
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = row != column and counts[row, column] > 0.6 * most
            color = "white" if dark else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color)
    if number <= _NAMED:
        names = [_short(name) for name in classes]
        axes.set_xticks(range(number), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(number), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    return figure


@_styled
def predictions(predicted: Sequence[Predicted], classes: Sequence[str], title: str) -> Figure:
    """Images with the probabilities of their classes. The truth is blue, a wrong prediction vermilion."""
    columns = min(2, len(predicted))
    rows = math.ceil(len(predicted) / columns)
    figure, grid = _grid(rows, 2 * columns, cell=(2.2, 2.0), title=title)
    for axes in grid.flat[2 * len(predicted) :]:
        axes.axis("off")
    for number, one in enumerate(predicted):
        image, bars = grid.flat[2 * number : 2 * number + 2]
        _show_predicted(image, one, classes)
        _draw_bars(bars, one, classes)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's content."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class's name in a script that the font lacks is drawn as boxes; no reason to trouble anyone.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=_DOTS)
    return buffer.getvalue()


def montage(maps: Maps) -> NDArray[np.float64]:
    """Maps [map, height, width] as one array, row by row in a grid as square as can be; NaN between them.

    Small maps are enlarged, so that what lies between them stays narrow.
    """
    count, height, width = maps.shape
    columns = math.ceil(math.sqrt(count))
    scale = max(1, 32 // max(height, width))
    gap = max(1, scale * max(height, width) // 12)
    high, wide = scale * height + gap, scale * width + gap
    grid = np.full((math.ceil(count / columns) * high + gap, columns * wide + gap), np.nan)
    for number, pixels in enumerate(maps):
        top, left = gap + number // columns * high, gap + number % columns * wide
        large = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
        grid[top : top + scale * height, left : left + scale * width] = large
    return grid


def _title(figure: Figure, text: str) -> None:
    """On as many lines as its width asks for."""
    across = int(figure.get_figwidth() * _CHARACTERS)
    figure.suptitle("\n".join(textwrap.fill(line, across) for line in text.splitlines()))


def _grid(rows: int, columns: int, cell: tuple[float, float], title: str) -> tuple[Figure, NDArray[Any]]:
    """A figure of axes [row, column], each of so many inches (width, height)."""
    figure = Figure(figsize=(max(3.5, columns * cell[0] + 0.6), rows * cell[1] + 0.6))
    _title(figure, title)
    grid: NDArray[Any] = figure.subplots(rows, columns, squeeze=False)
    return figure, grid


def _show(axes: Axes, pixels: Pixels) -> None:
    """An image as it is: grey, or in colour."""
    if len(pixels) == 1:
        axes.imshow(pixels[0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(pixels.transpose(1, 2, 0))
    axes.axis("off")


def _show_predicted(axes: Axes, one: Predicted, classes: Sequence[str]) -> None:
    """An image under its truth and prediction, above its name and how sure the prediction is."""
    _show(axes, one.pixels)
    truth = "" if one.truth is None else f"truth: {_short(classes[one.truth])}\n"
    color = "black" if one.truth in (None, one.best) else _VERMILION
    axes.set_title(f"{truth}predicted: {_short(classes[one.best])}", color=color)
    below = f"{percent(one.probabilities[one.best], _SURE)}, {_short(one.name, 24)}"
    axes.text(0.5, -0.03, below, transform=axes.transAxes, ha="center", va="top", color="0.4", fontsize=7)


def _draw_maps(axes: Axes, grid: NDArray[np.float64], limit: float) -> AxesImage:
    limit = limit or 1.0  # where all is 0, any scale will do
    drawn = axes.imshow(grid, cmap=_DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    axes.axis("off")
    return drawn


def _draw_bars(axes: Axes, one: Predicted, classes: Sequence[str]) -> None:
    """All classes in order; of many the most probable."""
    shown = list(range(len(classes)))
    if len(classes) > _BARS:
        shown = np.argsort(-one.probabilities, kind="stable")[:_BARS].tolist()
    colors = {one.best: _BLACK} if one.truth is None else {one.best: _VERMILION} | {one.truth: _BLUE}
    places = np.arange(len(shown))
    axes.barh(places, one.probabilities[shown], color=[colors.get(index, _GREY) for index in shown])
    axes.set_yticks(places, [_short(classes[index]) for index in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7)
    axes.set_xlabel("probability", fontsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _inches(grid: NDArray[np.float64], largest: float) -> tuple[float, float]:
    """Height and width of a grid in a figure."""
    height, width = grid.shape
    unit = largest / max(height, width)
    return height * unit, width * unit


def _oranges() -> Colormap:
    """From white, with the masked diagonal in grey."""
    colors = colormaps["Oranges"](np.linspace(0, 1, 256))
    colors[0] = 1
    return ListedColormap(colors).with_extremes(bad="0.9")


def _short(name: str, length: int = _NAME_LENGTH) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
