"""Sizes of feature maps and networks, and so whether one fits an image: arithmetic alone, without PyTorch."""

from convene.config.schema import NetworkConfig

# What the sizes follow from.
FIELDS = (
    *("kernel_size", "depth", "filters", "stride", "padding"),
    *("pooling", "pool_size", "pool_stride", "pool_padding"),
)


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


def convolved(config: NetworkConfig, size: int) -> int:
    """Pixels along one side after a block's convolution."""
    padding = config.kernel_size - 1 if config.padding == "same" else 0
    return output_size(size, config.kernel_size, padding, config.stride)


def pooled(config: NetworkConfig, size: int) -> int:
    """Pixels along one side after a block's pooling."""
    if config.pooling == "none":
        return size
    padding = config.pool_size - 1 if config.pool_padding == "same" else 0
    return output_size(size, config.pool_size, padding, pool_stride(config))


def pool_stride(config: NetworkConfig) -> int:
    """Step of the pooling window, in pixels."""
    return config.pool_stride or config.pool_size


def size_after(config: NetworkConfig, size: int) -> int:
    """Pixels along one side after a whole block."""
    return pooled(config, convolved(config, size))


def shape_error(config: NetworkConfig, image_shape: tuple[int, int, int]) -> str | None:
    """Why the network does not fit images of (channels, height, width), or None where it does."""
    size = min(image_shape[1:])
    for block in range(1, len(filters(config)) + 1):
        if convolved(config, size) < 1:
            return f"block {block}: a kernel of {config.kernel_size} pixels on {size} leaves none"
        if size_after(config, size) < 1:
            return (
                f"block {block}: pooling {config.pool_size} pixels on {convolved(config, size)} leaves none"
            )
        size = size_after(config, size)
    return None


def parameter_count(config: NetworkConfig, image_shape: tuple[int, int, int], classes: int) -> int:
    """Trained numbers in the network, which must fit images of (channels, height, width)."""
    channels, height, width = image_shape
    count = 0
    for maps in filters(config):
        # Batch norm has a scale and a shift of each map, in place of the convolution's bias.
        count += maps * (channels * config.kernel_size**2 + (2 if config.batch_norm else 1))
        channels, height, width = maps, size_after(config, height), size_after(config, width)
    features = channels * height * width
    for units in (*config.dense, classes):
        count += units * (features + 1)
        features = units
    return count
