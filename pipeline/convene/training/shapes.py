"""Sizes of feature maps and parameter counts, computed without PyTorch."""

from convene.config.schema import NetworkConfig

FIELDS = (
    *("kernel_size", "depth", "filters", "stride", "padding"),
    *("pooling", "pool_size", "pool_stride", "pool_padding"),
)
"""Fields of [network] that determine whether a network fits an image."""


def output_size(size: int, kernel: int, padding: int, stride: int) -> int:
    """Return the pixels along one side after a convolution or pooling: ⌊(n + padding − k)/s⌋ + 1.

    `padding` is the sum over both sides (2p if they are equal). A result below 1 means that the kernel does
    not fit.
    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016), relationship 6.
    """
    return (size + padding - kernel) // stride + 1


def filters(config: NetworkConfig) -> tuple[int, ...]:
    """Return the filters of each block: as listed, or `width` growing by `growth` over `depth` blocks."""
    if config.filters:
        return config.filters
    return tuple(max(1, round(config.width * config.growth**block)) for block in range(config.depth))


def size_after_convolution(config: NetworkConfig, size: int) -> int:
    """Return the pixels along one side after a block's convolution."""
    padding = config.kernel_size - 1 if config.padding == "same" else 0
    return output_size(size, config.kernel_size, padding, config.stride)


def size_after_pooling(config: NetworkConfig, size: int) -> int:
    """Return the pixels along one side after a block's pooling."""
    if config.pooling == "none":
        return size
    padding = config.pool_size - 1 if config.pool_padding == "same" else 0
    return output_size(size, config.pool_size, padding, pool_stride(config))


def pool_stride(config: NetworkConfig) -> int:
    """Return the step of the pooling window, in pixels."""
    return config.pool_stride or config.pool_size


def size_after_block(config: NetworkConfig, size: int) -> int:
    """Return the pixels along one side after a whole block."""
    return size_after_pooling(config, size_after_convolution(config, size))


def shape_error(config: NetworkConfig, image_shape: tuple[int, int, int]) -> str | None:
    """Return why the network does not fit images of (channels, height, width), or None if it fits."""
    size = min(image_shape[1:])
    for block in range(1, len(filters(config)) + 1):
        convolved = size_after_convolution(config, size)
        if convolved < 1:
            return (
                f"block {block}: a kernel of size {config.kernel_size} does not fit "
                f"a feature map of size {size}"
            )
        pooled = size_after_pooling(config, convolved)
        if pooled < 1:
            return (
                f"block {block}: a pooling window of size {config.pool_size} does not fit "
                f"a feature map of size {convolved}"
            )
        size = pooled
    return None


def parameter_count(config: NetworkConfig, image_shape: tuple[int, int, int], classes: int) -> int:
    """Return the number of trainable parameters. The network must fit images of (channels, height, width)."""
    channels, height, width = image_shape
    count = 0
    for maps in filters(config):
        # Batch norm has a scale and a shift for each map, and replaces the convolution's bias.
        count += maps * (channels * config.kernel_size**2 + (2 if config.batch_norm else 1))
        channels, height, width = maps, size_after_block(config, height), size_after_block(config, width)
    features = channels * height * width
    for units in (*config.dense, classes):
        count += units * (features + 1)
        features = units
    return count
