"""Saved test predictions and thumbnails, from which reports are made without opening the test set again."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convene.datasets import Images
from convene.ensemble.diagnostics import minority_votes
from convene.ensemble.selection import Member, average
from convene.storage import Storage
from convene.training.metrics import Logits, losses

_FILE = "test_evidence.npz"
# Limits on the saved images: misclassified, least confidently correct, most disputed.
_WRONG, _UNCERTAIN, _DISPUTED = 40, 16, 24
_SIDE = 96  # pixels; larger images are scaled down


@dataclass(frozen=True)
class Predictions:
    """The members' logits for all test images, and thumbnails of a few of the images."""

    members: tuple[Member, ...]
    logits: NDArray[np.float32]
    """[member, example, class]."""
    labels: NDArray[np.int64]
    """[example]."""
    image_indices: NDArray[np.int64]
    """Indices of the examples that have a thumbnail, ascending."""
    thumbnails: NDArray[np.uint8]
    """[thumbnail, channel, height, width], with sides of at most 96 pixels."""

    @property
    def ensemble_logits(self) -> Logits:
        """Return the ensemble's logits [example, class]."""
        return average(self.logits_by_trial, self.members)

    @property
    def logits_by_trial(self) -> dict[int, Logits]:
        """Return each member's logits [example, class]."""
        return {member.trial: logits for member, logits in zip(self.members, self.logits, strict=True)}


def collect(members: Sequence[Member], logits: Mapping[int, Logits], test: Images) -> Predictions:
    """Collect the members' logits, and thumbnails of the test images that a report shows."""
    stacked = np.stack([logits[member.trial] for member in members]).astype(np.float32)
    indices = _select_images(stacked, average(logits, tuple(members)), test.labels)
    return Predictions(tuple(members), stacked, test.labels, indices, _thumbnails(test.pixels[indices]))


def save(sweep: Storage, predictions: Predictions) -> None:
    """Write the predictions to the sweep's folder."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        trials=np.array([member.trial for member in predictions.members]),
        weights=np.array([member.weight for member in predictions.members]),
        logits=predictions.logits,
        labels=predictions.labels,
        shown=predictions.image_indices,
        pictures=predictions.thumbnails,
    )
    sweep.write(_FILE, buffer.getvalue())


def load(sweep: Storage) -> Predictions | None:
    """Read the predictions, or return None if there are none yet."""
    if not sweep.exists(_FILE):
        return None
    with np.load(io.BytesIO(sweep.read(_FILE)), allow_pickle=False) as arrays:
        members = tuple(
            Member(int(t), float(w)) for t, w in zip(arrays["trials"], arrays["weights"], strict=True)
        )
        return Predictions(members, arrays["logits"], arrays["labels"], arrays["shown"], arrays["pictures"])


def _select_images(
    stacked: NDArray[np.float32], averaged: Logits, labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the examples with the worst errors, the least confident correct ones and the most disputed."""
    loss, wrong, disputes = (
        losses(averaged, labels),
        averaged.argmax(axis=1) != labels,
        minority_votes(stacked),
    )
    by_loss = np.argsort(-loss, kind="stable")
    by_dispute = np.lexsort((-loss, -disputes))
    return np.unique(
        np.concatenate(
            [
                by_loss[wrong[by_loss]][:_WRONG],
                by_loss[~wrong[by_loss]][:_UNCERTAIN],
                by_dispute[(disputes[by_dispute] > 0) & ~wrong[by_dispute]][:_DISPUTED],
            ]
        )
    )


def _thumbnails(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images [example, channel, height, width], scaled down if a side is longer than `_SIDE`."""
    _, _, height, width = pixels.shape
    scale = _SIDE / max(height, width)
    if scale >= 1:
        return pixels
    from PIL import Image

    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = [
        [np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BOX)) for channel in image]
        for image in pixels
    ]
    return np.array(resized, np.uint8)
