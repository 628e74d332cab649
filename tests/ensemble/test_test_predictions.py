"""What the final stage keeps of the test set: enough for every picture, and no more."""

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


def test_it_reads_back_as_it_was_written(tmp_path: Path) -> None:
    kept = collected()
    assert test_predictions.load(Storage(str(tmp_path))) is None
    test_predictions.save(Storage(str(tmp_path)), kept)
    read = test_predictions.load(Storage(str(tmp_path)))
    assert read and read.members == kept.members
    for name in ("logits", "labels", "shown", "pictures"):
        assert np.array_equal(getattr(read, name), getattr(kept, name)), name


def test_the_ensemble_is_the_weighted_mean_of_its_members() -> None:
    kept = collected()
    assert kept.averaged == pytest.approx(0.75 * kept.by_trial[7] + 0.25 * kept.by_trial[3])


def places(chosen: NDArray[np.bool_], order: NDArray[np.float64], most: int) -> set[int]:
    return set(sorted(np.flatnonzero(chosen), key=lambda example: -order[example])[:most])


def test_the_pictures_are_of_the_worst_mistakes_and_the_least_sure_right_answers() -> None:
    kept = collected()
    loss, wrong = losses(kept.averaged, kept.labels), kept.averaged.argmax(axis=1) != kept.labels
    assert wrong.sum() > 40, "or the test says nothing of the limit"
    shown = set(kept.shown)
    assert places(wrong, loss, 40) == shown & set(np.flatnonzero(wrong))
    assert places(~wrong, loss, 16) <= shown
    disputed = (kept.logits[0].argmax(axis=1) != kept.logits[1].argmax(axis=1)) & ~wrong
    assert len(shown & set(np.flatnonzero(disputed))) >= min(24, disputed.sum())
    assert len(shown) <= 80
    assert kept.shown.tolist() == sorted(shown)


def test_who_makes_no_mistake_still_leaves_pictures() -> None:
    kept = collected(noise=0.0)
    assert len(kept.shown) == len(kept.pictures) == 16


@pytest.mark.parametrize(("side", "shape"), [(8, (8, 12)), (92, (92, 96)), (200, (94, 96)), (956, (96, 96))])
@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_kept_as_thumbnails(side: int, shape: tuple[int, int], channels: int) -> None:
    kept = collected(count=20, side=side, channels=channels)
    assert kept.pictures.shape[1:] == (channels, *shape)
    assert kept.pictures.dtype == np.uint8
