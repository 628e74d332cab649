"""The saved test predictions: enough for every picture in the report, and no more."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convene.datasets import Images
from convene.ensemble import test_predictions
from convene.ensemble.selection import Member
from convene.ensemble.test_predictions import Predictions
from convene.storage import Storage
from convene.training.metrics import losses

MEMBERS = (Member(7, 0.75), Member(3, 0.25))


def collected(count: int = 500, side: int = 8, channels: int = 1, noise: float = 2.0) -> Predictions:
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, count)
    pixels = random.integers(0, 256, (count, channels, side, side + 4), dtype=np.uint8)
    logits = {
        member.trial: (4 * np.eye(5)[labels] + random.normal(0, noise, (count, 5))).astype(np.float32)
        for member in MEMBERS
    }
    return test_predictions.collect(MEMBERS, logits, Images(pixels, labels))


def test_saved_predictions_read_back_unchanged(tmp_path: Path) -> None:
    predictions = collected()
    assert test_predictions.load(Storage(str(tmp_path))) is None
    test_predictions.save(Storage(str(tmp_path)), predictions)
    read = test_predictions.load(Storage(str(tmp_path)))
    assert read and read.members == predictions.members
    for name in ("logits", "labels", "image_indices", "thumbnails"):
        assert np.array_equal(getattr(read, name), getattr(predictions, name)), name


def test_ensemble_logits_are_the_weighted_mean_of_the_members() -> None:
    predictions = collected()
    assert predictions.ensemble_logits == pytest.approx(
        0.75 * predictions.logits_by_trial[7] + 0.25 * predictions.logits_by_trial[3]
    )


def highest(chosen: NDArray[np.bool_], order: NDArray[np.float64], limit: int) -> set[int]:
    return set(sorted(np.flatnonzero(chosen).tolist(), key=lambda example: -order[example])[:limit])


def test_thumbnails_show_the_worst_errors_and_the_least_confident_correct_predictions() -> None:
    predictions = collected()
    loss, wrong = (
        losses(predictions.ensemble_logits, predictions.labels),
        predictions.ensemble_logits.argmax(axis=1) != predictions.labels,
    )
    assert wrong.sum() > 40, "too few errors to test the limit"
    indices = set(predictions.image_indices)
    assert highest(wrong, loss, 40) == indices & set(np.flatnonzero(wrong))
    assert highest(~wrong, loss, 16) <= indices
    disputed = (predictions.logits[0].argmax(axis=1) != predictions.logits[1].argmax(axis=1)) & ~wrong
    assert len(indices & set(np.flatnonzero(disputed))) >= min(24, disputed.sum())
    assert len(indices) <= 80
    assert predictions.image_indices.tolist() == sorted(indices)


def test_an_ensemble_without_errors_still_has_thumbnails() -> None:
    predictions = collected(noise=0.0)
    assert len(predictions.image_indices) == len(predictions.thumbnails) == 16


@pytest.mark.parametrize(("side", "shape"), [(8, (8, 12)), (92, (92, 96)), (200, (94, 96)), (956, (96, 96))])
@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_scaled_down(side: int, shape: tuple[int, int], channels: int) -> None:
    predictions = collected(count=20, side=side, channels=channels)
    assert predictions.thumbnails.shape[1:] == (channels, *shape)
    assert predictions.thumbnails.dtype == np.uint8
