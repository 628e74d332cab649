"""The convolutional network that a configuration describes."""

import math
from collections.abc import Callable
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from convene.config.schema import NetworkConfig
from convene.training.shapes import filters, pool_stride, shape_error, size_after

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@final
class ConvNet(nn.Module):
    """Raw pixels in, logits out: normalisation is part of the network, so weights carry it.

    Args:
        config: the architecture; must fit the images (`shape_error` returns None).
        image_shape: (channels, height, width) of the images.
        classes: number of classes.
        mean: in units of 0–255, broadcast over [channel, height, width].
        deviation: likewise.

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
            self.blocks.append(_block(config, channels, maps))
            height, width = size_after(config, height), size_after(config, width)
            channels = maps
        self.head = _head(config, channels * height * width, classes)
        _initialize(self, config.initialization)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [example, class] of pixels [example, channel, height, width], uint8 or float in 0–255."""
        features: Tensor = self.blocks((pixels.float() - self.mean) / self.deviation)
        logits: Tensor = self.head(features)
        return logits


def parameter_count(network: nn.Module) -> int:
    """Trained numbers in the network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _block(config: NetworkConfig, channels: int, maps: int) -> nn.Sequential:
    """Convolution, pooling, batch norm, activation, dropout.

    Pooling comes before the rest because they then work on fewer values. For max pooling and an activation
    that never falls the result is the same in either order.
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
        block.append(_pooling(config))
    if config.batch_norm:
        block.append(nn.BatchNorm2d(maps))
    block.append(_ACTIVATIONS[config.activation]())
    if config.dropout:
        block.append(nn.Dropout(config.dropout))
    return block


def _pooling(config: NetworkConfig) -> nn.Module:
    size, stride = config.pool_size, pool_stride(config)
    if config.pool_padding == "same":
        return SamePooling(config.pooling, size, stride)
    return nn.MaxPool2d(size, stride) if config.pooling == "max" else nn.AvgPool2d(size, stride)


@final
class SamePooling(nn.Module):
    """Pooling whose windows reach past the edges, where there is nothing: no maximum, and no part of a mean.

    PyTorch's own padding is the same on all sides, which windows of an even size would need to be one pixel
    more on the right and bottom.
    """

    def __init__(self, pooling: str, size: int, stride: int) -> None:
        super().__init__()
        self._pooling, self._size, self._stride = pooling, size, stride

    def forward(self, maps: Tensor) -> Tensor:
        """Pooled maps [example, map, height, width]."""
        if self._pooling == "max":
            return functional.max_pool2d(self._padded(maps, -math.inf), self._size, self._stride)
        # The mean over a window with zeros for what is not there, by the part of the window that is.
        there = maps.new_ones(1, 1, *maps.shape[2:])
        means, parts = (
            functional.avg_pool2d(self._padded(part, 0), self._size, self._stride) for part in (maps, there)
        )
        return means / parts

    def _padded(self, maps: Tensor, value: float) -> Tensor:
        """With so much around the maps as windows reach into; padding copies them, so not where none does."""
        before = (self._size - 1) // 2
        sides = []
        for pixels in maps.shape[:1:-1]:  # width, then height
            last = (pixels - 1) // self._stride * self._stride - before  # where the last window begins
            sides += [before, max(0, last + self._size - pixels)]
        return functional.pad(maps, sides, value=value) if any(sides) else maps


def _head(config: NetworkConfig, features: int, classes: int) -> nn.Sequential:
    head = nn.Sequential(nn.Flatten())
    for units in config.dense:
        head.extend([nn.Linear(features, units), _ACTIVATIONS[config.activation]()])
        if config.dense_dropout:
            head.append(nn.Dropout(config.dense_dropout))
        features = units
    head.append(nn.Linear(features, classes))
    return head


def _initialize(network: nn.Module, initialization: str) -> None:
    if initialization == "default":
        return
    fill: Callable[[Tensor], object] = {
        "kaiming": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
        "xavier": nn.init.xavier_uniform_,
        "orthogonal": nn.init.orthogonal_,
    }[initialization]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
