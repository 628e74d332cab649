"""The bytes of networks and of the state to continue from, and the largest network of a space."""

import itertools
import math
from collections.abc import Callable
from typing import Any

from convene.config.schema import Configuration, NetworkConfig
from convene.config.search_space import SearchSpace
from convene.training.shapes import filters, parameter_count, shape_error

_TENSOR = 160  # name, type, shape and place of a tensor in a file


# What makes a network larger: it fits no worse, has no fewer parameters, and takes no less memory.
_LARGER: dict[str, Callable[[Any], float]] = {
    "network.width": lambda width: width,
    "network.growth": lambda growth: growth,
    "network.stride": lambda stride: -stride,
    "network.padding": lambda padding: padding == "same",
    "network.pooling": lambda pooling: pooling == "none",
    "network.pool_size": lambda size: -size,
    "network.pool_padding": lambda padding: padding == "same",
    "network.batch_norm": lambda has: has,
    "training.ema": lambda decay: decay > 0,
    "training.batch_size": lambda size: size,
}


# Some make some layers larger and others smaller, so that all their values have to be looked at.
_EITHER_WAY = (
    *("network.kernel_size", "network.depth", "network.filters", "network.dense"),
    "network.pool_stride",
)


def network_bytes(config: NetworkConfig, image_shape: tuple[int, int, int], classes: int) -> int:
    """At most so many bytes does a network's file have, whose images are (channels, height, width)."""
    maps = filters(config)
    numbers = parameter_count(config, image_shape, classes)
    if config.batch_norm:
        numbers += 2 * sum(maps)  # the running mean and variance
    numbers += math.prod(image_shape) + image_shape[0]  # the means, of each pixel at most, and deviations
    tensors = (6 if config.batch_norm else 2) * len(maps) + 2 * len(config.dense) + 4
    return 4 * numbers + _TENSOR * tensors


def state_bytes(configuration: Configuration, image_shape: tuple[int, int, int], classes: int) -> int:
    """At most so many bytes has the state to go on from: weights, two moments of each, and averaged ones."""
    copies = 4 if configuration.training.ema else 3
    return copies * network_bytes(configuration.network, image_shape, classes)


def largest(space: SearchSpace, image_shape: tuple[int, int, int], classes: int) -> Configuration:
    """A configuration of the space whose network takes the most bytes, with the largest batches.

    Exact: where only one of two values can make a network larger, and that one also fits any image that the
    other does, the other need not be looked at. What is left are whole numbers and choices, and all their
    combinations that fit are compared. At least one has to fit. Conditions are left out of account, and a
    parameter that has one may have its default, so that with conditions no network is larger, and perhaps
    none is so large.
    """
    values: dict[str, list[Any]] = {}
    for name, searched in space.searched.items():
        options = [*(searched.candidates or searched.allowed), *searched.inactive_default(name)]
        if name in _EITHER_WAY:
            values[name] = options
        elif name in _LARGER:
            values[name] = [max(options, key=_LARGER[name])]
    combined = (
        space.configuration(dict(zip(values, combination, strict=True)), number=0)
        for combination in itertools.product(*values.values())
    )
    return max(
        (
            configuration
            for configuration in combined
            if shape_error(configuration.network, image_shape) is None
        ),
        key=lambda configuration: network_bytes(configuration.network, image_shape, classes),
    )
