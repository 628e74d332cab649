"""What there is to see of a recorded sweep: each kind of picture with the numbers in it.

All images are validation images: the final stage alone opens the test set, and to look at its errors would be
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
from convene.formatting import ranges
from convene.visualization import images
from convene.visualization.images import Pixels, Predicted
from convene.visualization.model_view import Probabilities, Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convene.config.schema import NetworkConfig

_CLASSES, _EACH = 10, 10  # rows and columns of samples
_ERRORS = 9
_RANDOM = 6  # images for `predict` where none is named
_MOST_IMAGES = 24
_MOST_FILTERS = 256
_COLORS = ("red", "green", "blue")  # the channels of colour images


@dataclass(frozen=True)
class ViewOptions:
    """What is to be shown, and of what; `None` leaves the choice to each kind of picture."""

    trial: int | None = None
    ensemble: bool = False
    layer: int | None = None
    """From 1, as blocks are counted in other messages."""
    channel: int | None = None
    """Of the filters' inputs, from 0."""
    images: tuple[str, ...] = ()
    """Indices of validation images, and paths of files."""
    seed: int = 0
    """Of what is drawn at random."""


@dataclass(frozen=True)
class Exhibit:
    """Figures by the last part of their files' names, and the numbers in them."""

    figures: dict[str, "Figure"]
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """An image with its name, and its class where that is known."""

    name: str
    pixels: Pixels
    truth: int | None = None


def samples(dataset: Dataset, wish: ViewOptions) -> Exhibit:
    """Some images of each class that has any, of no more than ten classes."""
    random = np.random.default_rng(wish.seed)
    labels, classes = dataset.valid.labels, dataset.classes
    chosen = np.sort(random.permutation(np.unique(labels))[:_CLASSES])
    indices = {
        int(label): np.sort(random.permutation(np.flatnonzero(labels == label))[:_EACH]) for label in chosen
    }
    figure = images.samples(
        [classes[label] for label in indices],
        [[dataset.valid.pixels[index] for index in some] for some in indices.values()],
        f"{dataset.name}: validation images"
        + (f" of {len(chosen)} of {len(classes)} classes" if len(chosen) < len(classes) else ""),
    )
    shown = {classes[label]: some.tolist() for label, some in indices.items()}
    return Exhibit({"samples": figure}, {"images": shown})


def filters(chosen: Subject, wish: ViewOptions) -> Exhibit:
    """The first two layers, or the one that is asked for, from one input channel."""
    convolutions = [_convolution(block) for block in chosen.network().blocks]
    layers = [_checked_layer(wish.layer, chosen, convolutions)] if wish.layer is not None else [1, 2]
    channel, figures, numbers = wish.channel or 0, {}, []
    for layer, convolution in enumerate(convolutions, start=1):
        if layer not in layers:
            continue
        weights = convolution.weight.detach().numpy()  # [filter, channel, height, width]
        count, channels, *size = weights.shape
        if not 0 <= channel < channels:
            has = ranges(range(channels))
            raise InputError(
                f"--channel {channel}: layer {layer} of {chosen.name} has the input channels {has}; "
                "name another layer with --layer"
            )
        color = f" ({_COLORS[channel]})" if layer == 1 and channels == len(_COLORS) else ""
        title = f"{_of(chosen)}: {count} filters of layer {layer}, input channel {channel}{color}"
        title += f"\nthe first {_MOST_FILTERS}" if count > _MOST_FILTERS else ""
        shown = weights[:_MOST_FILTERS, channel]
        largest = float(np.abs(shown).max())
        figures[f"filters-layer-{layer}-channel-{channel}"] = images.filters(shown, largest, title)
        counts = {"channels": channels, "filters": count, "size": size, "largest_weight": largest}
        numbers.append({"layer": layer, "channel": channel, **counts})
    return Exhibit(figures, {"layers": numbers})


def features(chosen: Subject, wish: ViewOptions) -> Exhibit:
    """What each layer makes of one image: its convolution, and what goes on to the next layer."""
    network, config = chosen.network(), chosen.network_config()
    blocks = list(network.blocks)
    layers = (
        [_checked_layer(wish.layer, chosen, blocks)] if wish.layer is not None else range(1, len(blocks) + 1)
    )
    named = _examples(chosen.dataset, wish.images or ("0",))
    if len(named) > 1:
        raise InputError(f"--image: feature maps are of one image, not of {len(named)}")
    figures, numbers = {}, []
    maps = (torch.from_numpy(named[0].pixels)[None].float() - network.mean) / network.deviation
    for layer, block in enumerate(blocks, start=1):
        assert isinstance(block, nn.Sequential)
        convolved, maps = _in_stages(block, maps)
        if layer not in layers:
            continue
        stages = [("convolution", convolved[0].numpy()), (_what_follows(config), maps[0].numpy())]
        title = f"{_of(chosen)}: layer {layer}, {named[0].name}"
        figures[f"features-layer-{layer}"] = images.feature_maps(named[0].pixels, stages, title)
        sizes = {"before": list(convolved.shape[2:]), "after": list(maps.shape[2:])}
        numbers.append({"layer": layer, "maps": maps.shape[1], **sizes})
    return Exhibit(figures, {"image": named[0].name, "layers": numbers})


def errors(chosen: Subject, wish: ViewOptions) -> Exhibit:
    """The nine errors that the network was surest of."""
    probabilities, labels = chosen.valid_probabilities(), chosen.dataset.valid.labels
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:_ERRORS]
    predicted = [
        _predicted(_validation_image(chosen.dataset, int(index)), probabilities[index]) for index in surest
    ]
    rows = _rows(predicted, chosen.dataset.classes)
    numbers = {"errors": len(wrong), "images": len(labels), "shown": rows}
    if not predicted:
        return Exhibit({}, numbers)
    count = f"{len(wrong):,} error{'' if len(wrong) == 1 else 's'}"
    title = f"{_of(chosen)}: {count} on {len(labels):,} validation images"
    title += f"\nthe {len(predicted)} that it was surest of" if len(predicted) < len(wrong) else ""
    return Exhibit({"errors": images.errors(predicted, chosen.dataset.classes, title)}, numbers)


def confusion(chosen: Subject, wish: ViewOptions) -> Exhibit:
    """How many validation images of each class are taken for which."""
    labels, classes = chosen.dataset.valid.labels, chosen.dataset.classes
    counts = diagnostics.confusion(chosen.valid_probabilities(), labels)
    right = int(counts.trace())
    title = f"{_of(chosen)}: {right:,} of {len(labels):,} validation images are right"
    figure = images.confusion(counts, classes, title)
    numbers = {"classes": list(classes), "confusion": counts.tolist(), "right": right, "images": len(labels)}
    return Exhibit({"confusion": figure}, numbers)


def predict(chosen: Subject, wish: ViewOptions) -> Exhibit:
    """What is predicted for the named images, or for some at random."""
    dataset = chosen.dataset
    drawn = np.random.default_rng(wish.seed).permutation(len(dataset.valid))[:_RANDOM]
    named = _examples(dataset, wish.images or tuple(map(str, drawn)))
    pixels = torch.from_numpy(np.stack([example.pixels for example in named]))
    with torch.inference_mode():
        _, probabilities = chosen.networks()(pixels)
    predicted = [_predicted(example, row) for example, row in zip(named, probabilities.numpy(), strict=True)]
    rows = _rows(predicted, dataset.classes)
    for row, one in zip(rows, predicted, strict=True):
        row["probabilities"] = dict(zip(dataset.classes, one.probabilities.tolist(), strict=True))
    known = any(one.truth is not None for one in predicted)
    title = f"{_of(chosen)}: predictions" + (" (blue: the truth; vermilion: wrong)" if known else "")
    figure = images.predictions(predicted, dataset.classes, title)
    return Exhibit({"predict": figure}, {"predictions": rows})


KINDS: dict[str, Callable[[Subject, ViewOptions], Exhibit]] = {
    "filters": filters,
    "features": features,
    "errors": errors,
    "confusion": confusion,
    "predict": predict,
}
"""What can be shown of an ensemble or a trial, by name; `samples` are of the data alone."""
OF_ONE_NETWORK = ("filters", "features")


def _of(chosen: Subject) -> str:
    return f"{chosen.record.name}, {chosen.name}"


def _predicted(example: Example, probabilities: Probabilities) -> Predicted:
    return Predicted(example.name, example.pixels, probabilities, example.truth)


def _rows(predicted: Sequence[Predicted], classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "image": one.name,
            "truth": None if one.truth is None else classes[one.truth],
            "predicted": classes[one.best],
            "probability": float(one.probabilities[one.best]),
        }
        for one in predicted
    ]


def _checked_layer(layer: int, chosen: Subject, layers: Sequence[object]) -> int:
    if not 1 <= layer <= len(layers):
        has = ranges(range(1, len(layers) + 1))
        raise InputError(f"--layer {layer}: {chosen.name} has convolution layers {has}")
    return layer


def _convolution(block: nn.Module) -> nn.Conv2d:
    return next(layer for layer in block.modules() if isinstance(layer, nn.Conv2d))


def _in_stages(block: nn.Sequential, maps: Tensor) -> tuple[Tensor, Tensor]:
    """The maps after the block's convolution, and after all of it."""
    convolved = maps
    with torch.inference_mode():
        for layer in block:
            maps = layer(maps)
            if isinstance(layer, nn.Conv2d):
                convolved = maps
    return convolved, maps


def _what_follows(config: "NetworkConfig") -> str:
    """The parts of a block after its convolution."""
    pooling = [] if config.pooling == "none" else [f"{config.pooling} pooling"]
    norm = ["batch norm"] if config.batch_norm else []
    return "then " + ", ".join([*pooling, *norm, config.activation])


def _examples(dataset: Dataset, images: Sequence[str]) -> list[Example]:
    """Validation images by index, and images from files and folders.

    Raises:
        InputError: if there is no such image, or there are more than a picture holds.
    """
    examples = []
    for image in images:
        if image.isdecimal():
            examples.append(_validation_image(dataset, int(image)))
            continue
        for names, pixels in iterate_images(Path(image), image_shape=dataset.image_shape, chunk=_MOST_IMAGES):
            examples += [Example(name, one) for name, one in zip(names, pixels, strict=True)]
            if len(examples) > _MOST_IMAGES:
                raise InputError(
                    f"--image {image}: more than {_MOST_IMAGES} images, which is what a picture holds; "
                    "for any number there is `convene predict`"
                )
    return examples


def _validation_image(dataset: Dataset, index: int) -> Example:
    count = len(dataset.valid)
    if index >= count:
        raise InputError(f"--image {index}: there are validation images {ranges(range(count))}")
    return Example(f"validation image {index}", dataset.valid.pixels[index], int(dataset.valid.labels[index]))
