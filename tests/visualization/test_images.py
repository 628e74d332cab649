"""Figures of images: layout, colour scales and labels."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from convene.visualization import images
from convene.visualization.images import Prediction, montage

CLASSES = ("cat", "$5 or $10", "a name too long for the figure", "キツネ")
GREY = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
COLOR = np.arange(192, dtype=np.uint8).reshape(3, 8, 8)


def make_prediction(truth: int | None, *probabilities: float, pixels: Any = GREY) -> Prediction:
    return Prediction("image 7", pixels, np.array(probabilities), truth)


RIGHT, WRONG, UNKNOWN = (make_prediction(truth, 0.1, 0.6, 0.3, 0.0) for truth in (1, 2, None))
COUNTS = np.array([[5, 1, 0, 0], [0, 6, 0, 0], [2, 0, 4, 0], [0, 0, 0, 7]])

FIGURES: dict[str, Callable[[], Figure]] = {
    "samples": lambda: images.samples(CLASSES, [[GREY], [GREY] * 3, [], [GREY]], "samples"),
    "filters": lambda: images.filters(np.linspace(-1, 1, 45).reshape(5, 3, 3), 1.0, "filters"),
    "filters of zeros": lambda: images.filters(np.zeros((1, 1, 1)), 0.0, "filters"),
    "features": lambda: images.feature_maps(COLOR, [("a", np.ones((3, 8, 8))), ("b", -GREY / 9)], "maps"),
    "errors": lambda: images.errors([WRONG] * 4, CLASSES, "errors"),
    "one error": lambda: images.errors([WRONG], CLASSES, "errors"),
    "confusion": lambda: images.confusion(COUNTS, CLASSES, "confusion"),
    "many classes": lambda: images.confusion(np.eye(30, dtype=int), [*CLASSES * 7, "a", "b"], "many"),
    "predictions": lambda: images.predictions([RIGHT, WRONG, UNKNOWN], CLASSES, "predictions"),
    "one prediction": lambda: images.predictions([UNKNOWN], CLASSES, "predictions"),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_is_a_png_of_reasonable_size(kind: str) -> None:
    figure = FIGURES[kind]()
    content = images.png(figure)
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    assert all(300 < side < 2500 for side in image.size)
    assert figure.get_suptitle()


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 40))
def test_a_montage_has_all_maps_in_order_with_gaps(count: int, height: int, width: int) -> None:
    maps = np.arange(1.0, count * height * width + 1).reshape(count, height, width)
    grid = montage(maps)
    # Every pixel appears as often as the enlargement requires, and the maps are in row order.
    scale = max(1, 32 // max(height, width))
    values, copies = np.unique(grid[~np.isnan(grid)], return_counts=True)
    assert values.tolist() == maps.ravel().tolist()
    assert (copies == scale**2).all()
    corners = [tuple(np.argwhere(grid == each[0, 0])[0]) for each in maps]
    assert corners == sorted(corners)
    assert np.isnan(grid[0]).all() and np.isnan(grid[:, 0]).all()
    rows, columns = len({top for top, _ in corners}), len({left for _, left in corners})
    assert columns - 1 <= rows <= columns


def drawn(axes: Axes) -> np.ma.MaskedArray:
    (image,) = axes.images
    array = image.get_array()
    assert array is not None
    return np.ma.masked_invalid(array)


def test_samples_are_rows_of_unscaled_images() -> None:
    pale = GREY // 2 + 100
    (axes,) = images.samples(["one", "none", "two"], [[pale], [], [GREY, pale]], "").axes
    shown = drawn(axes)
    assert shown.shape == (3 * 8 + 2, 2 * 8 + 1, 3)  # one pixel apart
    for row, column, pixels in ((0, 0, pale), (18, 0, GREY), (18, 9, pale)):
        for channel in range(3):
            np.testing.assert_array_equal(shown[row : row + 8, column : column + 8, channel], pixels[0])
    assert (shown[9:17] == 190).all() and (shown[:8, 9:] == 190).all()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "none", "two"]
    assert [label.get_position()[1] for label in axes.get_yticklabels()] == [3.5, 12.5, 21.5]

    (axes,) = images.samples(["a"], [[COLOR]], "").axes
    np.testing.assert_array_equal(drawn(axes), COLOR.transpose(1, 2, 0))


def test_an_image_is_shown_unscaled() -> None:
    for pixels in (GREY // 2 + 100, COLOR):
        image, *_ = images.feature_maps(pixels, [("a", np.ones((1, 2, 2)))], "").axes
        np.testing.assert_array_equal(drawn(image).reshape(8, 8, -1), pixels.transpose(1, 2, 0))
    grey, *_ = images.feature_maps(GREY, [("a", np.ones((1, 2, 2)))], "").axes
    assert grey.images[0].get_clim() == (0, 255)  # not stretched to the range of the image


def test_filters_share_a_scale_with_zero_in_the_middle() -> None:
    weights = np.linspace(-0.2, 0.9, 36).reshape(4, 3, 3)
    axes, scale = images.filters(weights, 0.9, "").axes
    assert axes.images[0].get_clim() == (-0.9, 0.9)
    assert set(drawn(axes).compressed()) == set(weights.ravel())
    red, green, blue, _ = axes.images[0].cmap(0.5)
    assert min(red, green, blue) > 0.95  # white
    assert scale.get_ylabel() == "weight"


def test_feature_maps_are_labelled_with_number_and_size() -> None:
    maps = np.zeros((16, 14, 12))
    maps[3, 2, 1] = -5
    image, before, after, *_ = images.feature_maps(GREY, [("one", maps), ("two", maps[:, :7])], "").axes
    np.testing.assert_array_equal(drawn(image), GREY[0])
    assert before.get_title() == "one\n16 maps of 14×12"
    assert after.get_title() == "two\n16 maps of 7×12"
    assert before.images[0].get_clim() == (-5, 5)


def test_an_error_is_labelled_with_truth_prediction_and_image() -> None:
    first, *rest = images.errors([WRONG] * 4, CLASSES, "").axes
    assert first.get_title() == "truth: a name too lo…\npredicted: $5 or $10"
    assert [text.get_text() for text in first.texts] == ["60.0 %, image 7"]
    assert [bool(axes.images) for axes in rest] == [True] * 3 + [False] * 2


def test_only_errors_are_colored_in_the_confusion_matrix() -> None:
    (axes,) = images.confusion(COUNTS, CLASSES, "").axes
    colored = drawn(axes)
    assert colored.mask.tolist() == np.eye(4, dtype=bool).tolist()
    assert axes.images[0].get_clim() == (0, 2)
    labels = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert labels == {(row, column): str(COUNTS[row, column]) for row, column in np.argwhere(COUNTS)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "truth")


def test_bars_are_blue_for_the_truth_and_vermilion_for_an_error() -> None:
    figure = images.predictions([RIGHT, WRONG, UNKNOWN], CLASSES, "")
    colors = [[to_hex(bar.get_facecolor()) for bar in axes.patches] for axes in figure.axes[1:6:2]]
    grey, blue, vermilion, black = "#999999", "#0072b2", "#d55e00", "#333333"
    assert colors == [
        [grey, blue, grey, grey],
        [grey, vermilion, blue, grey],
        [grey, black, grey, grey],
    ]
    bars = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    assert [bar.get_width() for bar in bars] == [0.1, 0.6, 0.3, 0.0]
    assert [figure.axes[index].title.get_color() for index in (0, 2)] == ["black", "#D55E00"]


def test_only_the_most_probable_of_many_classes_are_drawn() -> None:
    probabilities = np.roll(np.linspace(0.1, 0, 20), 5)
    _, bars = images.predictions(
        [Prediction("x", GREY, probabilities, 0)], [str(n) for n in range(20)], ""
    ).axes
    assert [label.get_text() for label in bars.get_yticklabels()] == [str(n) for n in range(5, 15)]
