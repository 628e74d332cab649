"""scikit-learn's 1,797 handwritten digits of 8x8 pixels: there without a download."""

import numpy as np

from convene.datasets.dataset import Collection, Images


def read() -> Collection:
    """The digits, undivided, their values of 0 to 16 scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, np.newaxis]
    return Collection(
        tuple(str(name) for name in digits.target_names),
        {"train": Images(pixels, digits.target.astype(np.int64))},
    )
