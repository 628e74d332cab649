"""scikit-learn's 1,797 handwritten digits of 8x8 pixels, which need no download."""

import numpy as np

from convene.datasets.dataset import Images, SourceData


def read() -> SourceData:
    """Return the digits in one split, with values scaled from 0–16 to 0–255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, np.newaxis]
    return SourceData(
        tuple(str(name) for name in digits.target_names),
        {"train": Images(pixels, digits.target.astype(np.int64))},
    )
