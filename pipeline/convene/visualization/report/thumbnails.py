"""Inline thumbnails of test images, with their classes and predictions."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convene.ensemble.diagnostics import minority_votes, probabilities
from convene.ensemble.test_predictions import Predictions
from convene.formatting import plural
from convene.training.metrics import losses


@dataclass(frozen=True)
class Thumbnail:
    """A test image and the ensemble's prediction for it."""

    source: str
    """A data URL."""
    truth: str
    predicted: str
    confidence: float
    """The probability of the predicted class."""
    votes: str
    """The number of members that predict each class: "4 votes for cat, 1 for dog"."""

    @property
    def is_correct(self) -> bool:
        """Return whether the prediction is correct."""
        return self.truth == self.predicted


@dataclass(frozen=True)
class Gallery:
    """Instructive test images, each group with the highest loss or the most dissent first."""

    wrong: list[Thumbnail]
    uncertain: list[Thumbnail]
    """Correct, with low confidence."""
    disputed: list[Thumbnail]
    """Correct, although members disagree."""


def gallery(
    predictions: Predictions, classes: Sequence[str], *, uncertain: int = 8, disputed: int = 16
) -> Gallery:
    """Return thumbnails of all saved errors, and of a limited number of uncertain and disputed images."""
    logits, labels = predictions.ensemble_logits, predictions.labels
    predicted = logits.argmax(axis=1)
    loss, correct = losses(logits, labels), predicted == labels
    dissent = minority_votes(predictions.logits)
    shares = probabilities(logits)
    examples = predictions.image_indices

    def thumbnail(index: int) -> Thumbnail:
        example = examples[index]
        votes = np.bincount(predictions.logits[:, example].argmax(axis=1), minlength=len(classes))
        order = np.argsort(-votes, kind="stable")
        return Thumbnail(
            data_url(predictions.thumbnails[index]),
            classes[labels[example]],
            classes[predicted[example]],
            float(shares[example, predicted[example]]),
            f"{plural(votes[order[0]], 'vote')} for {classes[order[0]]}"
            + "".join(f", {votes[c]} for {classes[c]}" for c in order[1:] if votes[c]),
        )

    by_loss = sorted(range(len(examples)), key=lambda index: -loss[examples[index]])
    by_dissent = sorted(by_loss, key=lambda index: -dissent[examples[index]])
    right = [index for index in by_loss if correct[examples[index]]]
    split = [index for index in by_dissent if dissent[examples[index]] and correct[examples[index]]]
    return Gallery(
        [thumbnail(index) for index in by_loss if not correct[examples[index]]],
        [thumbnail(index) for index in right[:uncertain]],
        [thumbnail(index) for index in split[:disputed]],
    )


def data_url(pixels: NDArray[np.uint8]) -> str:
    """Return a data URL of a PNG of pixels [channel, height, width], grey or RGB."""
    from PIL import Image

    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
