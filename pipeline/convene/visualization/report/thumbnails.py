"""Small inline pictures of test images, with what is true and what was said."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convene.ensemble.diagnostics import minority_votes, probabilities
from convene.ensemble.test_predictions import Predictions
from convene.training.metrics import losses


@dataclass(frozen=True)
class Picture:
    """A test image and what was said of it."""

    source: str
    """A data URL."""
    truth: str
    said: str
    confidence: float
    """Of the ensemble in what it said."""
    votes: str = ""
    """How many members said what."""

    @property
    def right(self) -> bool:
        """Whether what was said is true."""
        return self.truth == self.said


@dataclass(frozen=True)
class Gallery:
    """The telling images: mistakes, narrow escapes, and disputes that ended well; the worst first."""

    wrong: list[Picture]
    narrow: list[Picture]
    disputed: list[Picture]


def gallery(
    predictions: Predictions, classes: Sequence[str], *, narrow: int = 8, disputed: int = 16
) -> Gallery:
    """The pictures of all kept mistakes, and of so many right answers that were unsure or disputed."""
    averaged, labels = predictions.ensemble_logits, predictions.labels
    answers = averaged.argmax(axis=1)
    loss, right = losses(averaged, labels), answers == labels
    disputes = minority_votes(predictions.logits)
    shares = probabilities(averaged)

    def picture(place: int) -> Picture:
        example = predictions.image_indices[place]
        said = answers[example]
        votes = np.bincount(predictions.logits[:, example].argmax(axis=1), minlength=len(classes))
        told = [f"{votes[c]} say {classes[c]}" for c in np.argsort(-votes, kind="stable") if votes[c]]
        return Picture(
            data_url(predictions.thumbnails[place]),
            classes[labels[example]],
            classes[said],
            float(shares[example, said]),
            ", ".join(told),
        )

    shown = predictions.image_indices
    by_loss = sorted(range(len(shown)), key=lambda place: -loss[shown[place]])
    by_dispute = sorted(by_loss, key=lambda place: -disputes[shown[place]])
    return Gallery(
        [picture(place) for place in by_loss if not right[shown[place]]],
        [picture(place) for place in by_loss if right[shown[place]]][:narrow],
        [picture(place) for place in by_dispute if disputes[shown[place]] and right[shown[place]]][:disputed],
    )


def data_url(pixels: NDArray[np.uint8]) -> str:
    """A PNG of pixels [channel, height, width], grey or RGB, as a URL that holds it."""
    from PIL import Image

    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
