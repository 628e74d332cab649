"""What the final stage keeps of the test set, so that no picture of its result needs it opened again."""

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
_WRONG, _RIGHT, _DISPUTED = 40, 16, 24  # images that are kept: more, nobody looks through
_SIDE = 96  # pixels; larger images are kept as thumbnails


@dataclass(frozen=True)
class Predictions:
    """The test's answers: of each member on each example, and the pictures of the telling ones."""

    members: tuple[Member, ...]
    logits: NDArray[np.float32]
    """[member, example, class]."""
    labels: NDArray[np.int64]
    """[example]."""
    shown: NDArray[np.int64]
    """Numbers of the examples whose pictures are kept, [picture], rising."""
    pictures: NDArray[np.uint8]
    """[picture, channel, height, width], no side longer than 96 pixels."""

    @property
    def averaged(self) -> Logits:
        """The ensemble's logits [example, class]."""
        return average(self.by_trial, self.members)

    @property
    def by_trial(self) -> dict[int, Logits]:
        """Each member's logits [example, class]."""
        return {member.trial: logits for member, logits in zip(self.members, self.logits, strict=True)}


def collect(members: Sequence[Member], logits: Mapping[int, Logits], test: Images) -> Predictions:
    """Puts together what is worth keeping while the test set is open."""
    stacked = np.stack([logits[member.trial] for member in members]).astype(np.float32)
    shown = _telling(stacked, average(logits, tuple(members)), test.labels)
    return Predictions(tuple(members), stacked, test.labels, shown, _thumbnails(test.pixels[shown]))


def save(sweep: Storage, predictions: Predictions) -> None:
    """Writes it beside the sweep's result."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        trials=np.array([member.trial for member in predictions.members]),
        weights=np.array([member.weight for member in predictions.members]),
        logits=predictions.logits,
        labels=predictions.labels,
        shown=predictions.shown,
        pictures=predictions.pictures,
    )
    sweep.write(_FILE, buffer.getvalue())


def load(sweep: Storage) -> Predictions | None:
    """What was kept, or None where no final stage came so far."""
    if not sweep.exists(_FILE):
        return None
    with np.load(io.BytesIO(sweep.read(_FILE)), allow_pickle=False) as kept:
        members = tuple(
            Member(int(t), float(w)) for t, w in zip(kept["trials"], kept["weights"], strict=True)
        )
        return Predictions(members, kept["logits"], kept["labels"], kept["shown"], kept["pictures"])


def _telling(stacked: NDArray[np.float32], averaged: Logits, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The worst mistakes, the least sure right answers, and those that the members dispute most."""
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
                by_loss[~wrong[by_loss]][:_RIGHT],
                by_dispute[(disputes[by_dispute] > 0) & ~wrong[by_dispute]][:_DISPUTED],
            ]
        )
    )


def _thumbnails(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images [example, channel, height, width], reduced where a side is longer than `_SIDE`."""
    _, _, height, width = pixels.shape
    scale = _SIDE / max(height, width)
    if scale >= 1:
        return pixels
    from PIL import Image

    size = max(1, round(width * scale)), max(1, round(height * scale))
    reduced = [[Image.fromarray(channel).resize(size, Image.Resampling.BOX) for channel in p] for p in pixels]
    return np.array([[np.asarray(channel) for channel in picture] for picture in reduced], np.uint8)
