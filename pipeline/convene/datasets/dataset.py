"""Labelled uint8 images, and how they are divided: by class, by seed, never overlapping."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Images:
    """One split: `pixels` uint8 [example, channel, height, width], `labels` int64 [example]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """Of the shape, the pixels and the labels."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def take(self, indices: NDArray[np.integer[Any]]) -> "Images":
        """A copy of the examples at `indices`, in that order."""
        return Images(np.ascontiguousarray(self.pixels[indices]), self.labels[indices])


@dataclass(frozen=True)
class SealedTest:
    """The test split, closed: its size and hash can be seen, its images only through `open`.

    `convene.ensemble.test_set.open_test` is the one caller of `open`, and records each opening.
    """

    _images: Images

    def __len__(self) -> int:
        return len(self._images)

    @property
    def sha256(self) -> str:
        """Of the test images and labels."""
        return self._images.sha256

    def open(self) -> Images:
        """The test images. Called by `convene.ensemble.test_set.open_test` alone."""
        return self._images


@dataclass(frozen=True)
class Statistics:
    """What pixels are normalised with, in units of 0 to 255: (pixels - mean) / deviation.

    Both float32, [channel, 1, 1], or the mean [channel, height, width] where it is taken of each pixel.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


@dataclass(frozen=True)
class TrainingData:
    """What a trial learns from and is judged by: all of a data set but its test images."""

    train: Images
    valid: Images
    statistics: Statistics
    classes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """What each node holds of it, however many trials it trains: pixels and labels."""
        return sum(images.pixels.nbytes + images.labels.nbytes for images in (self.train, self.valid))


@dataclass(frozen=True)
class Dataset:
    """A data set, ready for training.

    `name` is short and fit for an MLflow experiment; `source` is where it came from; `statistics` were
    fitted on `train` alone; `fingerprint` is the SHA-256 over class names and the three splits.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    train: Images
    valid: Images
    test: SealedTest
    statistics: Statistics
    fingerprint: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, channels, height, width = self.train.pixels.shape
        return channels, height, width

    @property
    def for_training(self) -> TrainingData:
        """What travels to the workers."""
        return TrainingData(self.train, self.valid, self.statistics, self.classes)


@dataclass(frozen=True)
class Collection:
    """What a source holds, before anything is divided.

    `splits` has `train` always, and `valid` and `test` only where the source has them itself.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Images]


def fingerprint(classes: tuple[str, ...], train: Images, valid: Images, test: SealedTest) -> str:
    """SHA-256 over the class names, in order, and the hashes of the three splits."""
    content = json.dumps([classes, train.sha256, valid.sha256, test.sha256])
    return hashlib.sha256(content.encode()).hexdigest()
