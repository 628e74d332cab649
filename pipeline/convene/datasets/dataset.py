"""Types for labelled images, their splits, and what a trial may see of them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Images:
    """The images and labels of a split."""

    pixels: NDArray[np.uint8]
    """Pixels [example, channel, height, width]."""
    labels: NDArray[np.int64]
    """Class numbers [example]."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """SHA-256 of the shape, the pixels and the labels."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def take(self, indices: NDArray[np.integer[Any]]) -> "Images":
        """Return a copy of the examples at `indices`, in that order."""
        return Images(np.ascontiguousarray(self.pixels[indices]), self.labels[indices])


@dataclass(frozen=True)
class SealedTest:
    """The sealed test split: its size and hash are visible, its images only through `open`.

    `convene.ensemble.test_set.open_test` is the only caller of `open` and records each opening.
    """

    _images: Images

    def __len__(self) -> int:
        return len(self._images)

    @property
    def sha256(self) -> str:
        """SHA-256 of the test images and labels."""
        return self._images.sha256

    def open(self) -> Images:
        """Return the test images. Only `convene.ensemble.test_set.open_test` may call this."""
        return self._images


@dataclass(frozen=True)
class Statistics:
    """Statistics that normalise pixels in units of 0 to 255: (pixels - mean) / deviation."""

    mean: NDArray[np.float32]
    """Mean of each channel [channel, 1, 1] or of each pixel [channel, height, width]."""
    deviation: NDArray[np.float32]
    """Standard deviation [channel, 1, 1]."""


@dataclass(frozen=True)
class TrainingData:
    """A data set without its test images, as trials see it."""

    train: Images
    valid: Images
    statistics: Statistics
    classes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of pixels and labels, which all trials on a node share."""
        return sum(images.pixels.nbytes + images.labels.nbytes for images in (self.train, self.valid))


@dataclass(frozen=True)
class Dataset:
    """A data set, ready for training."""

    name: str
    """Short name, suitable for an MLflow experiment."""
    source: str
    """Name, path or address of the source."""
    classes: tuple[str, ...]
    """Class names in the order of class numbers."""
    train: Images
    valid: Images
    test: SealedTest
    statistics: Statistics
    """Statistics of the training images alone."""
    fingerprint: str
    """SHA-256 of the class names and the three splits."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image: (channels, height, width)."""
        _, channels, height, width = self.train.pixels.shape
        return channels, height, width

    @property
    def training_data(self) -> TrainingData:
        """The part of the data set that is sent to workers."""
        return TrainingData(self.train, self.valid, self.statistics, self.classes)


@dataclass(frozen=True)
class SourceData:
    """The content of a source, before missing splits are held out."""

    classes: tuple[str, ...]
    """Class names in the order of class numbers."""
    splits: Mapping[str, Images]
    """Images of `train`, and of `valid` and `test` if the source has them."""


def fingerprint(classes: tuple[str, ...], train: Images, valid: Images, test: SealedTest) -> str:
    """Return the SHA-256 of the class names, in order, and the hashes of the three splits."""
    content = json.dumps([classes, train.sha256, valid.sha256, test.sha256])
    return hashlib.sha256(content.encode()).hexdigest()
