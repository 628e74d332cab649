"""Views of a recorded sweep: pictures and the numbers they show.

Only validation images are shown: the final stage alone opens the test set, and showing its errors would be
another opening.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from convene.datasets import Dataset, iterate_images
from convene.ensemble import diagnostics
from convene.errors import InputError
from convene.formatting import percent, ranges
from convene.visualization import images
from convene.visualization.images import Pixels, Prediction
from convene.visualization.model_view import ModelView, Probabilities

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convene.config.schema import NetworkConfig

_CLASSES, _PER_CLASS = 10, 10  # rows and columns of samples
_ERRORS = 9
_RANDOM = 6  # images for `predict` by default
_MAX_IMAGES = 24
_MAX_FILTERS = 256
_COLORS = ("red", "green", "blue")  # the channels of colour images


@dataclass(frozen=True)
class ViewOptions:
    """Options of a view; `None` stands for the view's default."""

    trial: int | None = None
    ensemble: bool = False
    layer: int | None = None
    """Number of the convolution layer, from 1."""
    channel: int | None = None
    """Input channel of the filters, from 0."""
    images: tuple[str, ...] = ()
    """Indices of validation images, and paths of image files or folders."""
    seed: int = 0
    """Seed of the random selection of images."""


@dataclass(frozen=True)
class View:
    """Figures by the last part of their file names, and the numbers they show."""

    figures: dict[str, "Figure"]
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """An image with its name and, if known, its class."""

    name: str
    pixels: Pixels
    truth: int | None = None


def samples(dataset: Dataset, options: ViewOptions) -> View:
    """Return random images of up to ten classes that have any."""
    random = np.random.default_rng(options.seed)
    labels, classes = dataset.valid.labels, dataset.classes
    chosen = np.sort(random.permutation(np.unique(labels))[:_CLASSES])
    indices = {
        int(label): np.sort(random.permutation(np.flatnonzero(labels == label))[:_PER_CLASS])
        for label in chosen
    }
    figure = images.samples(
        [classes[label] for label in indices],
        [[dataset.valid.pixels[index] for index in row] for row in indices.values()],
        f"{dataset.name}: validation images"
        + (f" ({len(chosen)} of {len(classes)} classes)" if len(chosen) < len(classes) else ""),
    )
    shown = {classes[label]: row.tolist() for label, row in indices.items()}
    return View({"samples": figure}, {"images": shown})


def filters(model: ModelView, options: ViewOptions) -> View:
    """Return the filters of the first two layers, or of `options.layer`, for one input channel."""
    convolutions = [_convolution(block) for block in model.network().blocks]
    layers = [_checked_layer(options.layer, model, convolutions)] if options.layer is not None else [1, 2]
    channel, figures, numbers = options.channel or 0, {}, []
    for layer, convolution in enumerate(convolutions, start=1):
        if layer not in layers:
            continue
        weights = convolution.weight.detach().numpy()  # [filter, channel, height, width]
        count, channels, *size = weights.shape
        if not 0 <= channel < channels:
            available = f"{'channel' if channels == 1 else 'channels'} {ranges(range(channels))}"
            raise InputError(
                f"--channel {channel}: layer {layer} of {model.name} has input {available}; "
                "choose another layer with --layer"
            )
        color = f" ({_COLORS[channel]})" if layer == 1 and channels == len(_COLORS) else ""
        title = f"{_label(model)}: {count} filters of layer {layer}, input channel {channel}{color}"
        title += f"\n(first {_MAX_FILTERS})" if count > _MAX_FILTERS else ""
        shown = weights[:_MAX_FILTERS, channel]
        largest = float(np.abs(shown).max())
        figures[f"filters-layer-{layer}-channel-{channel}"] = images.filters(shown, largest, title)
        counts = {"channels": channels, "filters": count, "size": size, "largest_weight": largest}
        numbers.append({"layer": layer, "channel": channel, **counts})
    return View(figures, {"layers": numbers})


def features(model: ModelView, options: ViewOptions) -> View:
    """Return each layer's feature maps for one image: after its convolution and after the whole block."""
    network, config = model.network(), model.network_config()
    blocks = list(network.blocks)
    layers = (
        [_checked_layer(options.layer, model, blocks)]
        if options.layer is not None
        else range(1, len(blocks) + 1)
    )
    examples = _examples(model.dataset, options.images or ("0",))
    if len(examples) > 1:
        raise InputError(f"--image: features accepts one image, got {len(examples)}")
    example = examples[0]
    figures, numbers = {}, []
    maps = (torch.from_numpy(example.pixels)[None].float() - network.mean) / network.deviation
    for layer, block in enumerate(blocks, start=1):
        assert isinstance(block, nn.Sequential)
        convolved, maps = _apply_block(block, maps)
        if layer not in layers:
            continue
        stages = [("convolution", convolved[0].numpy()), (_later_stages(config), maps[0].numpy())]
        title = f"{_label(model)}: layer {layer}, {example.name}"
        figures[f"features-layer-{layer}"] = images.feature_maps(example.pixels, stages, title)
        sizes = {"before": list(convolved.shape[2:]), "after": list(maps.shape[2:])}
        numbers.append({"layer": layer, "maps": maps.shape[1], **sizes})
    return View(figures, {"image": example.name, "layers": numbers})


def errors(model: ModelView, options: ViewOptions) -> View:
    """Return the nine errors with the highest confidence."""
    probabilities, labels = model.valid_probabilities(), model.dataset.valid.labels
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    most_confident = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:_ERRORS]
    predictions = [
        _prediction(_validation_image(model.dataset, int(index)), probabilities[index])
        for index in most_confident
    ]
    rows = _rows(predictions, model.dataset.classes)
    numbers = {"errors": len(wrong), "images": len(labels), "shown": rows}
    if not predictions:
        return View({}, numbers)
    count = f"{len(wrong):,} error{'' if len(wrong) == 1 else 's'}"
    title = f"{_label(model)}: {count} on {len(labels):,} validation images"
    title += f"\n(the {len(predictions)} most confident)" if len(predictions) < len(wrong) else ""
    return View({"errors": images.errors(predictions, model.dataset.classes, title)}, numbers)


def confusion(model: ModelView, options: ViewOptions) -> View:
    """Return the confusion matrix of the validation images."""
    labels, classes = model.dataset.valid.labels, model.dataset.classes
    counts = diagnostics.confusion(model.valid_probabilities(), labels)
    right = int(counts.trace())
    accuracy = f"{percent(right / len(labels), len(labels))} ({right:,} of {len(labels):,} images)"
    title = f"{_label(model)}: validation accuracy {accuracy}"
    figure = images.confusion(counts, classes, title)
    numbers = {"classes": list(classes), "confusion": counts.tolist(), "right": right, "images": len(labels)}
    return View({"confusion": figure}, numbers)


def predict(model: ModelView, options: ViewOptions) -> View:
    """Return predictions for the given images, or for random ones."""
    dataset = model.dataset
    indices = np.random.default_rng(options.seed).permutation(len(dataset.valid))[:_RANDOM]
    examples = _examples(dataset, options.images or tuple(map(str, indices)))
    pixels = torch.from_numpy(np.stack([example.pixels for example in examples]))
    with torch.inference_mode():
        _, probabilities = model.networks()(pixels)
    predictions = [
        _prediction(example, row) for example, row in zip(examples, probabilities.numpy(), strict=True)
    ]
    rows = _rows(predictions, dataset.classes)
    for row, prediction in zip(rows, predictions, strict=True):
        row["probabilities"] = dict(zip(dataset.classes, prediction.probabilities.tolist(), strict=True))
    is_known = any(prediction.truth is not None for prediction in predictions)
    title = f"{_label(model)}: predictions" + (
        " (blue: truth, vermilion: wrong prediction)" if is_known else ""
    )
    figure = images.predictions(predictions, dataset.classes, title)
    return View({"predict": figure}, {"predictions": rows})


KINDS: dict[str, Callable[[ModelView, ViewOptions], View]] = {
    "filters": filters,
    "features": features,
    "errors": errors,
    "confusion": confusion,
    "predict": predict,
}
"""The views of an ensemble or a trial by name; `samples` shows only data."""
SINGLE_NETWORK_VIEWS = ("filters", "features")


def _label(model: ModelView) -> str:
    return f"{model.record.name}, {model.name}"


def _prediction(example: Example, probabilities: Probabilities) -> Prediction:
    return Prediction(example.name, example.pixels, probabilities, example.truth)


def _rows(predictions: Sequence[Prediction], classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "image": prediction.name,
            "truth": None if prediction.truth is None else classes[prediction.truth],
            "predicted": classes[prediction.predicted],
            "probability": float(prediction.probabilities[prediction.predicted]),
        }
        for prediction in predictions
    ]


def _checked_layer(layer: int, model: ModelView, layers: Sequence[object]) -> int:
    if not 1 <= layer <= len(layers):
        available = ranges(range(1, len(layers) + 1))
        raise InputError(f"--layer {layer}: {model.name} has convolution layers {available}")
    return layer


def _convolution(block: nn.Module) -> nn.Conv2d:
    return next(layer for layer in block.modules() if isinstance(layer, nn.Conv2d))


def _apply_block(block: nn.Sequential, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps after the block's convolution and after the whole block."""
    convolved = maps
    with torch.inference_mode():
        for layer in block:
            maps = layer(maps)
            if isinstance(layer, nn.Conv2d):
                convolved = maps
    return convolved, maps


def _later_stages(config: "NetworkConfig") -> str:
    """Return the stages of a block after its convolution."""
    pooling = [] if config.pooling == "none" else [f"{config.pooling} pooling"]
    norm = ["batch norm"] if config.batch_norm else []
    return "after " + ", ".join([*pooling, *norm, config.activation])


def _examples(dataset: Dataset, images: Sequence[str]) -> list[Example]:
    """Return validation images by index, and images from files and folders.

    Raises:
        InputError: if an image does not exist, or there are more than fit into a picture.
    """
    examples = []
    for image in images:
        if image.isdecimal():
            examples.append(_validation_image(dataset, int(image)))
            continue
        for names, pixels in iterate_images(Path(image), image_shape=dataset.image_shape, chunk=_MAX_IMAGES):
            examples += [Example(name, each) for name, each in zip(names, pixels, strict=True)]
            if len(examples) > _MAX_IMAGES:
                raise InputError(
                    f"--image {image}: more than {_MAX_IMAGES} images, the maximum for a picture; "
                    "use `convene predict` for any number of images"
                )
    return examples


def _validation_image(dataset: Dataset, index: int) -> Example:
    count = len(dataset.valid)
    if index >= count:
        raise InputError(f"--image {index}: validation images are numbered {ranges(range(count))}")
    return Example(f"validation image {index}", dataset.valid.pixels[index], int(dataset.valid.labels[index]))
