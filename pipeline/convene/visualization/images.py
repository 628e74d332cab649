"""Figures of images, filters, feature maps and predictions, drawn from arrays without a display."""

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

# Blue, vermilion and grey can be distinguished with any kind of colour vision (Okabe and Ito 2008).
_BLUE, _VERMILION, _GREY, _BLACK = "#0072B2", "#D55E00", "#999999", "#333333"
_SEPARATOR = 190  # grey level between images and maps
_DIVERGING = colormaps["RdBu_r"].with_extremes(bad=str(_SEPARATOR / 255))
_NAME_LENGTH = 14  # characters of a class name
_MAX_COUNTED = 20  # classes in a confusion matrix with numbers
_MAX_NAMED = 40  # classes in a confusion matrix with class names
_DIGITS = 100  # probabilities are printed with the digits of a share of 100 images
_BARS = 10  # classes whose probabilities are drawn
_DPI = 150
_CHARACTERS = 11  # of a title per inch

_styled = matplotlib.rc_context(
    {
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.titlesize": 9,
        "figure.titlesize": 11,
        "text.parse_math": False,  # a class name may contain $
    }
)


@dataclass(frozen=True)
class Prediction:
    """An image with its predicted probabilities."""

    name: str
    pixels: Pixels
    probabilities: NDArray[np.floating[Any]]  # [class]
    truth: int | None
    """The true class, if known."""

    @property
    def predicted(self) -> int:
        """Return the class with the highest probability."""
        return int(self.probabilities.argmax())


@_styled
def samples(classes: Sequence[str], images: Sequence[Sequence[Pixels]], title: str) -> Figure:
    """Return a figure with one row of images per class. All images have the same size."""
    _, height, width = next(pixels for row in images for pixels in row).shape
    columns, gap = max(map(len, images)), max(1, width // 10)
    row_height, column_width = height + gap, width + gap
    canvas = np.full((len(images) * row_height - gap, columns * column_width - gap, 3), _SEPARATOR, np.uint8)
    for number, row in enumerate(images):
        for column, pixels in enumerate(row):
            position = np.s_[
                number * row_height : number * row_height + height,
                column * column_width : column * column_width + width,
            ]
            canvas[position] = pixels.transpose(1, 2, 0)  # grey images fill all three channels
    names = [_short(name) for name in classes]
    margin = 0.5 + 0.12 * max(map(len, names))  # inches for the longest name
    figure = Figure(figsize=(0.8 * columns * column_width / row_height + margin, 0.8 * len(images) + 0.6))
    _title(figure, title)
    axes = figure.subplots()
    axes.imshow(canvas)
    middles = np.arange(len(images)) * row_height + (height - 1) / 2
    axes.set_yticks(middles, names, fontsize=11)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@_styled
def filters(weights: Maps, limit: float, title: str) -> Figure:
    """Return a figure of a layer's filters. White is a weight of 0, full colour a weight of ±`limit`."""
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
    """Return a figure of an image and a layer's maps by stage, each with its own scale and 0 in white."""
    figure = Figure(figsize=(2.2 + 5.4 * len(stages), 5.4))
    _title(figure, title)
    image, *panels = figure.subplots(1, 1 + len(stages), width_ratios=[0.4, *[1] * len(stages)])
    _show(image, pixels)
    image.set_title("image")
    for (name, maps), axes in zip(stages, panels, strict=True):
        drawn = _draw_maps(axes, montage(maps), float(np.abs(maps).max()))
        _, height, width = maps.shape
        axes.set_title(f"{name}\n{len(maps)} maps of {height}×{width}")
        figure.colorbar(drawn, ax=axes, shrink=0.7)
    return figure


@_styled
def errors(wrong: Sequence[Prediction], classes: Sequence[str], title: str) -> Figure:
    """Return a figure of misclassified images, up to three per row."""
    columns = min(3, len(wrong))
    figure, grid = _grid(math.ceil(len(wrong) / columns), columns, cell=(2.1, 2.4), title=title)
    for axes in grid.flat[len(wrong) :]:
        axes.axis("off")
    for error, axes in zip(wrong, grid.flat, strict=False):
        _show_prediction(axes, error, classes)
    return figure


@_styled
def confusion(counts: NDArray[np.integer[Any]], classes: Sequence[str], title: str) -> Figure:
    """Return a figure of the confusion matrix, truths by row. Only errors are coloured."""
    number = len(classes)
    side = min(10.0, max(3.5, 0.55 * number))
    figure = Figure(figsize=(side + 1.5, side + 1))
    _title(figure, title)
    axes = figure.subplots()
    off_diagonal = np.ma.masked_array(counts, np.eye(number, dtype=bool))
    largest = max(1, int(off_diagonal.max())) if number > 1 else 1
    drawn = axes.imshow(off_diagonal, cmap=_oranges(), vmin=0, vmax=largest)
    if number > _MAX_COUNTED:
        figure.colorbar(drawn, ax=axes, label="errors", shrink=0.7, ticks=MaxNLocator(integer=True))
    else:
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = row != column and counts[row, column] > 0.6 * largest
            color = "white" if dark else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color)
    if number <= _MAX_NAMED:
        names = [_short(name) for name in classes]
        axes.set_xticks(range(number), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(number), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    return figure


@_styled
def predictions(shown: Sequence[Prediction], classes: Sequence[str], title: str) -> Figure:
    """Return a figure of images with class probabilities; truths are blue, wrong predictions vermilion."""
    columns = min(2, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, grid = _grid(rows, 2 * columns, cell=(2.2, 2.0), title=title)
    for axes in grid.flat[2 * len(shown) :]:
        axes.axis("off")
    for number, prediction in enumerate(shown):
        image, bars = grid.flat[2 * number : 2 * number + 2]
        _show_prediction(image, prediction, classes)
        _draw_bars(bars, prediction, classes)
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Class names in a script that the font lacks are drawn as boxes; a warning would not help.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def montage(maps: Maps) -> NDArray[np.float64]:
    """Return maps [map, height, width] as one array: a nearly square grid, row by row, separated by NaN.

    Small maps are enlarged to keep the separators narrow in comparison.
    """
    count, height, width = maps.shape
    columns = math.ceil(math.sqrt(count))
    scale = max(1, 32 // max(height, width))
    gap = max(1, scale * max(height, width) // 12)
    row_height, column_width = scale * height + gap, scale * width + gap
    grid = np.full((math.ceil(count / columns) * row_height + gap, columns * column_width + gap), np.nan)
    for number, pixels in enumerate(maps):
        top, left = gap + number // columns * row_height, gap + number % columns * column_width
        large = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
        grid[top : top + scale * height, left : left + scale * width] = large
    return grid


def _title(figure: Figure, text: str) -> None:
    """Add a title, wrapped to the width of the figure."""
    width = int(figure.get_figwidth() * _CHARACTERS)
    figure.suptitle("\n".join(textwrap.fill(line, width) for line in text.splitlines()))


def _grid(rows: int, columns: int, cell: tuple[float, float], title: str) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes [row, column]; `cell` is their width and height in inches."""
    figure = Figure(figsize=(max(3.5, columns * cell[0] + 0.6), rows * cell[1] + 0.6))
    _title(figure, title)
    grid: NDArray[Any] = figure.subplots(rows, columns, squeeze=False)
    return figure, grid


def _show(axes: Axes, pixels: Pixels) -> None:
    """Draw a grey or colour image without scaling its values."""
    if len(pixels) == 1:
        axes.imshow(pixels[0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(pixels.transpose(1, 2, 0))
    axes.axis("off")


def _show_prediction(axes: Axes, prediction: Prediction, classes: Sequence[str]) -> None:
    """Draw an image with its truth, prediction, confidence and name."""
    _show(axes, prediction.pixels)
    truth = "" if prediction.truth is None else f"truth: {_short(classes[prediction.truth])}\n"
    color = "black" if prediction.truth in (None, prediction.predicted) else _VERMILION
    axes.set_title(f"{truth}predicted: {_short(classes[prediction.predicted])}", color=color)
    below = (
        f"{percent(prediction.probabilities[prediction.predicted], _DIGITS)}, {_short(prediction.name, 24)}"
    )
    axes.text(0.5, -0.03, below, transform=axes.transAxes, ha="center", va="top", color="0.4", fontsize=7)


def _draw_maps(axes: Axes, grid: NDArray[np.float64], limit: float) -> AxesImage:
    limit = limit or 1.0  # if all values are 0, any scale is fine
    drawn = axes.imshow(grid, cmap=_DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    axes.axis("off")
    return drawn


def _draw_bars(axes: Axes, prediction: Prediction, classes: Sequence[str]) -> None:
    """Draw the probabilities of all classes in order, or of the most probable if there are many."""
    shown = list(range(len(classes)))
    if len(classes) > _BARS:
        shown = np.argsort(-prediction.probabilities, kind="stable")[:_BARS].tolist()
    colors = (
        {prediction.predicted: _BLACK}
        if prediction.truth is None
        else {prediction.predicted: _VERMILION} | {prediction.truth: _BLUE}
    )
    positions = np.arange(len(shown))
    axes.barh(positions, prediction.probabilities[shown], color=[colors.get(index, _GREY) for index in shown])
    axes.set_yticks(positions, [_short(classes[index]) for index in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7)
    axes.set_xlabel("probability", fontsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _inches(grid: NDArray[np.float64], largest: float) -> tuple[float, float]:
    """Return the height and the width of a grid in inches."""
    height, width = grid.shape
    unit = largest / max(height, width)
    return height * unit, width * unit


def _oranges() -> Colormap:
    """Return a colour map that starts at white and draws the masked diagonal in grey."""
    colors = colormaps["Oranges"](np.linspace(0, 1, 256))
    colors[0] = 1
    return ListedColormap(colors).with_extremes(bad="0.9")


def _short(name: str, length: int = _NAME_LENGTH) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
