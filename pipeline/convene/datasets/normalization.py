"""Exact statistics of the training pixels, without a floating-point copy of the images."""

import numpy as np
from numpy.typing import NDArray

from convene.config.schema import Normalization
from convene.datasets.dataset import Statistics

_CHUNK_BYTES = 1 << 24


def fit_statistics(pixels: NDArray[np.uint8], normalization: Normalization) -> Statistics:
    """Return the statistics of `pixels` [example, channel, height, width], in units of 0 to 255.

    Args:
        pixels: the training images.
        normalization: `channel` gives the mean and standard deviation of each channel, [channel, 1, 1].
            `pixel` gives the mean of each pixel, [channel, height, width], and the standard deviation from it
            over all pixels, repeated as [channel, 1, 1]. `center` gives the same mean and 255. `none` gives 0
            and 255.

    A standard deviation of 0 becomes 1, so that constant images stay finite.
    """
    channels = pixels.shape[1]
    if normalization == "none":
        return _statistics(np.zeros((channels, 1, 1)), [255.0] * channels)
    sums, squares = _moments(pixels)
    if normalization == "center":
        return _statistics(sums / len(pixels), [255.0] * channels)
    if normalization == "pixel":
        count, positions = len(pixels), sums.size
        # Python's integers, because sums of squares of large data sets exceed 64 bits, and floats cancel.
        spread = count * int(squares.sum()) - sum(value * value for value in sums.ravel().tolist())
        return _statistics(sums / count, [(spread / (count * count * positions)) ** 0.5] * channels)
    count = pixels.size // channels
    totals = [int(value) for value in sums.sum(axis=(1, 2))]
    powers = [int(value) for value in squares.sum(axis=(1, 2))]
    means = np.array([total / count for total in totals]).reshape(channels, 1, 1)
    spreads = [count * power - total * total for total, power in zip(totals, powers, strict=True)]
    return _statistics(means, [spread**0.5 / count for spread in spreads])


def _moments(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sums over examples of each pixel and of its square, [channel, height, width]."""
    sums = np.zeros(pixels.shape[1:], dtype=np.int64)
    squares = np.zeros(pixels.shape[1:], dtype=np.int64)
    step = max(1, _CHUNK_BYTES // max(1, sums.size))
    for start in range(0, len(pixels), step):
        chunk = pixels[start : start + step]
        sums += chunk.sum(axis=0, dtype=np.int64)
        # 255² fits into 16 bits.
        squares += np.square(chunk, dtype=np.uint16).sum(axis=0, dtype=np.int64)
    return sums, squares


def _statistics(mean: NDArray[np.float64], deviations: list[float]) -> Statistics:
    deviation = np.array([value or 1.0 for value in deviations]).reshape(-1, 1, 1)
    return Statistics(mean.astype(np.float32), deviation.astype(np.float32))
