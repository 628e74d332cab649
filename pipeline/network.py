"""The convolutional network that a configuration describes, and whether it fits the image."""

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.config import NetworkConfig

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def output_size(size: int, kernel: int, padding: int, stride: int) -> int:
    """Pixels along one side after a convolution or pooling: ⌊(n + padding − k)/s⌋ + 1.

    `padding` is the sum over both sides (2p where they are equal). Less than 1 means that it does not fit.
    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016), relationship 6.
    """
    return (size + padding - kernel) // stride + 1


def filters(config: NetworkConfig) -> tuple[int, ...]:
    """Filters of each block: as listed, or `width` growing by `growth` over `depth` blocks."""
    if config.filters:
        return config.filters
    return tuple(max(1, round(config.width * config.growth**block)) for block in range(config.depth))


def misfit(config: NetworkConfig, image_shape: tuple[int, int, int]) -> str | None:
    """Why the network does not fit images of (channels, height, width), or None where it does."""
    size = min(image_shape[1:])
    padding = config.kernel_size - 1 if config.padding == "same" else 0
    for block in range(1, len(filters(config)) + 1):
        after = output_size(size, config.kernel_size, padding, config.stride)
        if after < 1:
            return f"block {block}: a {config.kernel_size}-pixel kernel on {size} pixels leaves none"
        if config.pooling != "none":
            pooled = output_size(after, config.pool_size, 0, config.pool_size)
            if pooled < 1:
                return f"block {block}: {config.pool_size}-pixel pooling on {after} pixels leaves none"
            after = pooled
        size = after
    return None


@final
class ConvNet(nn.Module):
    """Raw pixels in, logits out: normalisation is part of the network, so weights carry it.

    Args:
        config: the architecture; must fit the images (`misfit` returns None).
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
        if problem := misfit(config, image_shape):
            raise ValueError(problem)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("deviation", torch.tensor(deviation))
        self.blocks = nn.Sequential()
        channels, *size = image_shape
        for width in filters(config):
            self.blocks.append(_block(config, channels, width))
            size = [_size_after(config, side) for side in size]
            channels = width
        self.head = _head(config, channels * size[0] * size[1], classes)
        _initialize(self, config.initialization)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [example, class] of pixels [example, channel, height, width], uint8 or float in 0–255."""
        features: Tensor = self.blocks((pixels.float() - self.mean) / self.deviation)
        logits: Tensor = self.head(features)
        return logits


def parameter_count(network: nn.Module) -> int:
    """Trained numbers in the network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _size_after(config: NetworkConfig, size: int) -> int:
    padding = config.kernel_size - 1 if config.padding == "same" else 0
    size = output_size(size, config.kernel_size, padding, config.stride)
    return size if config.pooling == "none" else output_size(size, config.pool_size, 0, config.pool_size)


def _block(config: NetworkConfig, channels: int, width: int) -> nn.Sequential:
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
        nn.Conv2d(channels, width, config.kernel_size, config.stride, padding, bias=not config.batch_norm)
    )
    if config.pooling == "max":
        block.append(nn.MaxPool2d(config.pool_size))
    elif config.pooling == "average":
        block.append(nn.AvgPool2d(config.pool_size))
    if config.batch_norm:
        block.append(nn.BatchNorm2d(width))
    block.append(_ACTIVATIONS[config.activation]())
    if config.dropout:
        block.append(nn.Dropout(config.dropout))
    return block


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
    fill = {
        "kaiming": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
        "xavier": nn.init.xavier_uniform_,
        "orthogonal": nn.init.orthogonal_,
    }[initialization]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
