"""The convolutional network of a configuration, in PyTorch."""

import math
from collections.abc import Callable
from functools import partial
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from convene.config.schema import NetworkConfig
from convene.training.shapes import filters, pool_stride, shape_error, size_after_block

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
"""Layers by the value of `network.activation`."""

INITIALIZATIONS: dict[str, Callable[[Tensor], object] | None] = {
    "default": None,  # PyTorch's own
    "kaiming": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
}
"""Functions that fill a weight in place, by the value of `network.initialization`."""


@final
class ConvNet(nn.Module):
    """A network from raw pixels to logits.

    Normalisation is part of the network, so its mean and deviation are saved with the weights.

    Args:
        config: the architecture; must fit the images (`shape_error` returns None).
        image_shape: (channels, height, width) of the images.
        classes: number of classes.
        mean: mean of the pixels in units of 0–255, broadcast over [channel, height, width].
        deviation: standard deviation of the pixels, likewise.

    Raises:
        ValueError: if the configuration does not fit the images.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        image_shape: tuple[int, int, int],
        classes: int,
        mean: NDArray[np.float32],
        deviation: NDArray[np.float32],
    ) -> None:
        super().__init__()
        if problem := shape_error(config, image_shape):
            raise ValueError(problem)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("deviation", torch.tensor(deviation))
        self.blocks = nn.Sequential()
        channels, height, width = image_shape
        for maps in filters(config):
            self.blocks.append(_build_block(config, channels, maps))
            height, width = size_after_block(config, height), size_after_block(config, width)
            channels = maps
        self.head = _build_head(config, channels * height * width, classes)
        _initialize(self, config.initialization)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits [example, class] of pixels [example, channel, height, width] from 0 to 255."""
        features: Tensor = self.blocks((pixels.float() - self.mean) / self.deviation)
        logits: Tensor = self.head(features)
        return logits


def parameter_count(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _build_block(config: NetworkConfig, channels: int, maps: int) -> nn.Sequential:
    """Return convolution, pooling, batch norm, activation and dropout, in this order.

    Pooling comes before batch norm and activation, which then work on fewer values. For max pooling and a
    non-decreasing activation, pooling and activation commute.
    """
    block = nn.Sequential()
    padding = (config.kernel_size - 1) // 2 if config.padding == "same" else 0
    if config.padding == "same" and config.kernel_size % 2 == 0:
        # An even kernel needs one more pixel on the right and bottom.
        block.append(nn.ZeroPad2d((padding, padding + 1, padding, padding + 1)))
        padding = 0
    block.append(
        nn.Conv2d(channels, maps, config.kernel_size, config.stride, padding, bias=not config.batch_norm)
    )
    if config.pooling != "none":
        block.append(_build_pooling(config))
    if config.batch_norm:
        block.append(nn.BatchNorm2d(maps))
    block.append(ACTIVATIONS[config.activation]())
    if config.dropout:
        block.append(nn.Dropout(config.dropout))
    return block


def _build_pooling(config: NetworkConfig) -> nn.Module:
    size, stride = config.pool_size, pool_stride(config)
    if config.pool_padding == "same":
        return SamePooling(config.pooling, size, stride)
    return nn.MaxPool2d(size, stride) if config.pooling == "max" else nn.AvgPool2d(size, stride)


@final
class SamePooling(nn.Module):
    """Pooling with windows that reach past the edges; pixels outside the map are ignored, not zero.

    PyTorch's own padding is the same on all sides, but windows of an even size need one more pixel on the
    right and bottom.
    """

    def __init__(self, pooling: str, size: int, stride: int) -> None:
        super().__init__()
        self._pooling, self._size, self._stride = pooling, size, stride

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps [example, map, height, width]."""
        if self._pooling == "max":
            return functional.max_pool2d(self._pad(maps, -math.inf), self._size, self._stride)
        # Divide the mean over the zero-padded window by the share of the window that lies inside the map.
        inside = maps.new_ones(1, 1, *maps.shape[2:])
        means, shares = (
            functional.avg_pool2d(self._pad(part, 0), self._size, self._stride) for part in (maps, inside)
        )
        return means / shares

    def _pad(self, maps: Tensor, value: float) -> Tensor:
        """Pad the maps as far as windows reach. Maps that need no padding are not copied."""
        before = (self._size - 1) // 2
        sides = []
        for pixels in maps.shape[:1:-1]:  # width, then height
            last = (pixels - 1) // self._stride * self._stride - before  # first pixel of the last window
            sides += [before, max(0, last + self._size - pixels)]
        return functional.pad(maps, sides, value=value) if any(sides) else maps


def _build_head(config: NetworkConfig, features: int, classes: int) -> nn.Sequential:
    head = nn.Sequential(nn.Flatten())
    for units in config.dense:
        head.extend([nn.Linear(features, units), ACTIVATIONS[config.activation]()])
        if config.dense_dropout:
            head.append(nn.Dropout(config.dense_dropout))
        features = units
    head.append(nn.Linear(features, classes))
    return head


def _initialize(network: nn.Module, initialization: str) -> None:
    fill = INITIALIZATIONS[initialization]
    if fill is None:
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
