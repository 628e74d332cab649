"""Augmentation: shifts, mirrored images and rotations against the same changes by hand."""

from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from convene.config.schema import TrainingConfig
from convene.training.augmentation import augment


def images(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images without black pixels, so that black pixels come from outside."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(1, 256, (count, channels, height, width), dtype=np.uint8))


def translated(image: Tensor, dy: int, dx: int) -> Tensor:
    """The image [channel, height, width] moved down by dy and right by dx, on black."""
    source, moved = image.numpy(), np.zeros_like(image.numpy())
    _, height, width = source.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                moved[:, y, x] = source[:, y - dy, x - dx]
    return torch.from_numpy(moved)


def test_without_augmentation_images_are_unchanged() -> None:
    pixels = images(4, 3, 5, 6)
    assert torch.equal(augment(pixels, TrainingConfig(shift=0, rotation=0.0, flip=False)), pixels)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_a_shift_is_a_translation_on_black(
    channels: int, height: int, width: int, shift: int, seed: int
) -> None:
    torch.manual_seed(seed)
    pixels = images(4, channels, height, width, seed)
    moved = augment(pixels, TrainingConfig(shift=shift))
    assert (moved.dtype, moved.shape) == (torch.uint8, pixels.shape)
    offsets = range(-shift, shift + 1)
    for before, after in zip(pixels, moved, strict=True):
        assert any(torch.equal(after, translated(before, dy, dx)) for dy in offsets for dx in offsets)


def test_each_image_is_shifted_by_its_own_draw() -> None:
    torch.manual_seed(0)
    pixels = images(1, 1, 3, 3).expand(400, -1, -1, -1)
    moved = {tuple(image.flatten().tolist()) for image in augment(pixels, TrainingConfig(shift=1))}
    # 400 draws miss one of 9 offsets with probability 9 (8/9)^400 < 1e-19.
    assert moved == {
        tuple(translated(pixels[0], dy, dx).flatten().tolist()) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
    }


def test_a_flip_mirrors_left_to_right_half_of_the_time() -> None:
    torch.manual_seed(0)
    pixels = images(400, 3, 4, 5)
    after = augment(pixels, TrainingConfig(shift=0, flip=True))
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(after, pixels, strict=True)]
    same = [torch.equal(new, old) for new, old in zip(after, pixels, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 140 < sum(mirrored) < 260  # six deviations of sqrt(400 / 4) = 10 around 200


SPOT = 8.0  # pixels from the centre of the image


def spots(height: int, width: int, count: int = 64) -> Tensor:
    """Images of a round spot to the right of the centre."""
    y, x = np.mgrid[:height, :width]
    squares = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2 - SPOT) ** 2
    return torch.from_numpy((255 * np.exp(-squares / 4)).astype(np.uint8)).expand(count, 1, -1, -1)


def centres(pixels: Tensor) -> NDArray[np.float64]:
    """Each image's centre of brightness (y, x), relative to the centre of the image."""
    light = pixels[:, 0].double().numpy()
    _, height, width = light.shape
    y, x = np.mgrid[:height, :width]
    total = light.sum((1, 2))
    return np.stack(
        [
            (light * (y - (height - 1) / 2)).sum((1, 2)) / total,
            (light * (x - (width - 1) / 2)).sum((1, 2)) / total,
        ],
        axis=1,
    )


@pytest.mark.parametrize(("height", "width"), [(27, 27), (27, 41), (41, 27)])
@pytest.mark.parametrize("degrees", [10.0, 45.0])
def test_a_rotation_is_about_the_centre_and_within_its_limit(height: int, width: int, degrees: float) -> None:
    torch.manual_seed(0)
    turned = augment(spots(height, width), TrainingConfig(shift=0, rotation=degrees))
    y, x = centres(turned).T
    # Interpolation moves the centre of brightness by a few hundredths of a pixel.
    np.testing.assert_allclose(np.hypot(y, x), SPOT, atol=0.1)
    angles = np.degrees(np.arctan2(y, x))
    assert np.abs(angles).max() <= degrees + 1
    # 64 uniform draws miss the last fifth at one end with probability 0.9^64 = 0.001; the seed is fixed.
    assert angles.min() < -0.8 * degrees < 0.8 * degrees < angles.max()


def test_a_tiny_rotation_leaves_the_images_unchanged() -> None:
    pixels = images(4, 3, 6, 9)
    turned = augment(pixels, TrainingConfig(shift=0, rotation=1e-6))
    torch.testing.assert_close(turned, pixels.float(), atol=1e-2, rtol=0)  # out of 255, from interpolation


def test_pixels_from_outside_a_rotation_are_black() -> None:
    torch.manual_seed(0)
    white = torch.full((64, 1, 16, 16), 255, dtype=torch.uint8)
    turned = augment(white, TrainingConfig(shift=0, rotation=45.0))
    assert float(turned.min()) == 0
    assert float(turned.max()) == pytest.approx(255)
    assert cast(float, turned[:, 0, 0, 0].min()) == 0
    torch.testing.assert_close(turned[:, :, 5:11, 5:11], torch.full((64, 1, 6, 6), 255.0))
