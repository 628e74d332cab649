"""Stratified random splits and samples, as functions of labels and a seed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def hold_out(
    labels: NDArray[np.int64], fraction: float, *, minimum_left: int = 1, seed: tuple[int, ...]
) -> tuple[Indices, Indices]:
    """Split examples in two, class by class.

    The second part gets `fraction` of each class, to within one example, but at least one example. The first
    part keeps at least `minimum_left` examples of each class.

    Returns:
        Ascending indices of the first and of the second part, which together are all examples. The same seed
        gives the same split.

    Raises:
        ValueError: if a class has fewer than 1 + `minimum_left` examples.
    """
    counts = np.bincount(labels)
    if (counts[counts > 0] <= minimum_left).any():
        raise ValueError(f"each class needs {1 + minimum_left} examples or more")
    held = _apportion(counts, round(len(labels) * fraction))
    held = np.clip(held, np.minimum(1, counts), np.maximum(counts - minimum_left, 0))
    return _draw_per_class(labels, held, seed)


def stratified_sample(labels: NDArray[np.int64], size: int, *, seed: tuple[int, ...]) -> Indices:
    """Return ascending indices of `size` examples, with each class in proportion but at least once.

    If there are no more than `size` examples, all are returned.

    Raises:
        ValueError: if `size` is smaller than the number of classes.
    """
    if size >= len(labels):
        return np.arange(len(labels))
    counts = np.bincount(labels)
    if size < np.count_nonzero(counts):
        raise ValueError(f"{size} examples cannot include {np.count_nonzero(counts)} classes")
    drawn = np.maximum(_apportion(counts, size), np.minimum(1, counts))
    # Rare classes are raised to one example at the expense of classes furthest above their proportion.
    exact = counts * (size / len(labels))
    while drawn.sum() > size:
        drawn[np.argmax(np.where(drawn > 1, drawn - exact, -np.inf))] -= 1
    return _draw_per_class(labels, drawn, seed)[1]


def _apportion(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Distribute `total` in proportion to the counts, by the largest remainder method."""
    exact = counts * (total / counts.sum())
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    largest = np.argsort(shares - exact, kind="stable")[: total - shares.sum()]
    shares[largest] += 1
    return shares


def _draw_per_class(
    labels: NDArray[np.int64], sizes: NDArray[Any], seed: tuple[int, ...]
) -> tuple[Indices, Indices]:
    """Draw `sizes[c]` examples of each class c; return ascending indices of the rest and of the drawn."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    # The position of each example within its class, in random order.
    position = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn = np.zeros(len(labels), dtype=bool)
    drawn[order] = position < np.repeat(sizes, counts)
    return np.flatnonzero(~drawn), np.flatnonzero(drawn)
