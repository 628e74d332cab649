"""Sizes in bytes of networks and their training states, and the largest network of a search space."""

import itertools
import math
from collections.abc import Callable
from typing import Any

from convene.config.schema import Configuration, NetworkConfig
from convene.config.search_space import SearchSpace
from convene.training.shapes import filters, parameter_count, shape_error

_TENSOR_HEADER = 160  # bytes for the name, type, shape and offset of a tensor in a file

# Fields whose values can be ordered. A network with a higher key fits at least the same images, and has at
# least as many parameters and activations.
_SIZE_KEYS: dict[str, Callable[[Any], float]] = {
    "network.width": lambda width: width,
    "network.growth": lambda growth: growth,
    "network.stride": lambda stride: -stride,
    "network.padding": lambda padding: padding == "same",
    "network.pooling": lambda pooling: pooling == "none",
    "network.pool_size": lambda size: -size,
    "network.pool_padding": lambda padding: padding == "same",
    "network.batch_norm": lambda enabled: enabled,
    "training.ema": lambda decay: decay > 0,
    "training.batch_size": lambda size: size,
}
# Fields that enlarge some layers and shrink others, so that all of their values are compared.
_UNORDERED = (
    *("network.kernel_size", "network.depth", "network.filters", "network.dense"),
    "network.pool_stride",
)


def network_bytes(config: NetworkConfig, image_shape: tuple[int, int, int], classes: int) -> int:
    """Return an upper bound of the size of a network's file, for images of (channels, height, width)."""
    maps = filters(config)
    values = parameter_count(config, image_shape, classes)
    if config.batch_norm:
        values += 2 * sum(maps)  # running mean and variance
    values += math.prod(image_shape) + image_shape[0]  # means, per pixel at most, and deviations
    tensors = (6 if config.batch_norm else 2) * len(maps) + 2 * len(config.dense) + 4
    return 4 * values + _TENSOR_HEADER * tensors


def state_bytes(configuration: Configuration, image_shape: tuple[int, int, int], classes: int) -> int:
    """Return an upper bound of the size of a training state's file; see `network_bytes`."""
    # Weights, two moments of each, and averaged weights.
    copies = 4 if configuration.training.ema else 3
    return copies * network_bytes(configuration.network, image_shape, classes)


def largest_configuration(
    space: SearchSpace, image_shape: tuple[int, int, int], classes: int
) -> Configuration:
    """Return the configuration of the space with the largest network and batches.

    Fields in `_SIZE_KEYS` get their largest value. The other fields that matter are whole numbers and
    choices, and all of their combinations are compared. At least one combination must fit the images.

    The result is exact for spaces without conditions. Conditions are ignored, and a conditional parameter may
    also have its default. With conditions the result is an upper bound.
    """
    values: dict[str, list[Any]] = {}
    for name, parameter in space.searched.items():
        options = [*(parameter.all_values or parameter.choices_or_bounds), *parameter.inactive_default(name)]
        if name in _UNORDERED:
            values[name] = options
        elif name in _SIZE_KEYS:
            values[name] = [max(options, key=_SIZE_KEYS[name])]
    combinations = (
        space.configuration(dict(zip(values, combination, strict=True)), number=0)
        for combination in itertools.product(*values.values())
    )
    return max(
        (
            configuration
            for configuration in combinations
            if shape_error(configuration.network, image_shape) is None
        ),
        key=lambda configuration: network_bytes(configuration.network, image_shape, classes),
    )
