"""Which examples go where: drawn by class and seed. Pure functions of labels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def hold_out(
    labels: NDArray[np.int64], fraction: float, *, leave: int = 1, seed: tuple[int, ...]
) -> tuple[Indices, Indices]:
    """Divides examples in two, class by class.

    Of each class the second part gets `fraction`, to within one example; but always one, and never so
    many that fewer than `leave` stay in the first.

    Returns:
        Indices of the first and of the second part, each ascending: disjoint and exhaustive. The same
        for the same seed.

    Raises:
        ValueError: if a class has fewer than 1 + `leave` examples.
    """
    counts = np.bincount(labels)
    if (counts[counts > 0] <= leave).any():
        raise ValueError(f"each class needs {1 + leave} examples or more")
    held = _shares(counts, round(len(labels) * fraction))
    return _draw(labels, np.clip(held, np.minimum(1, counts), np.maximum(counts - leave, 0)), seed)


def draw(labels: NDArray[np.int64], size: int, *, seed: tuple[int, ...]) -> Indices:
    """Ascending indices of `size` examples in which classes have their shares, and one example at least.

    All examples, where there are no more than `size`.

    Raises:
        ValueError: if `size` is smaller than the number of classes.
    """
    if size >= len(labels):
        return np.arange(len(labels))
    counts = np.bincount(labels)
    if size < np.count_nonzero(counts):
        raise ValueError(f"{size} examples cannot hold {np.count_nonzero(counts)} classes")
    drawn = np.maximum(_shares(counts, size), np.minimum(1, counts))
    # What lifts a rare class to one example is taken from the classes that are furthest above their share.
    exact = counts * (size / len(labels))
    while drawn.sum() > size:
        drawn[np.argmax(np.where(drawn > 1, drawn - exact, -np.inf))] -= 1
    return _draw(labels, drawn, seed)[1]


def _shares(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Whole numbers that add up to `total`, each within one of its share: the largest remainders round up."""
    exact = counts * (total / counts.sum())
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    largest = np.argsort(shares - exact, kind="stable")[: total - shares.sum()]
    shares[largest] += 1
    return shares


def _draw(labels: NDArray[np.int64], sizes: NDArray[Any], seed: tuple[int, ...]) -> tuple[Indices, Indices]:
    """Draws `sizes[c]` examples of each class c; the rest and the drawn, ascending."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    # The place of each example in its own class, in random order.
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[order] = place < np.repeat(sizes, counts)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
