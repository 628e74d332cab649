"""Arrays of any usual type and layout as uint8 [example, channel, height, width]."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convene.config.schema import DataConfig
from convene.datasets.dataset import Collection, Images
from convene.datasets.decoding import fit_picture
from convene.errors import InputError

_CHUNK = 4096


def as_pixels(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """`values` as uint8 [example, channel, height, width]; `where` names them in messages.

    Accepts whole numbers from 0 to 255 in any type (booleans are black and white), as [example, height,
    width], with channels last or first, or flat, [example, side² or 3·side²], row by row and in colour the
    three channels of each pixel together. Four axes have channels last if the last has 1 or 3 places,
    else with channels first if the second has.

    Raises:
        InputError: for other shapes, and for fractions or numbers outside 0 to 255.
    """
    return _channels_first(_as_uint8(values, where), where)


def _as_uint8(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if values.dtype == np.uint8 or not values.ndim:
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise InputError(f"{where}: values of type {values.dtype}; pixels are whole numbers from 0 to 255")
    pixels = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        with np.errstate(invalid="ignore"):
            pixels[start : start + _CHUNK] = chunk
        if not np.array_equal(pixels[start : start + _CHUNK], chunk):
            raise InputError(
                f"{where}: {values.dtype} values from {chunk.min()} to {chunk.max()}; pixels are whole "
                "numbers from 0 to 255 (images of 0 to 1 are to be multiplied by 255 and rounded)"
            )
    return pixels


def _channels_first(pixels: NDArray[np.uint8], where: str) -> NDArray[np.uint8]:
    shape = pixels.shape
    if 0 not in shape:
        if pixels.ndim == 2:
            for channels in (1, 3):
                side = isqrt(shape[1] // channels)
                if side * side * channels == shape[1]:
                    return _channels_first(pixels.reshape(-1, side, side, channels), where)
        elif pixels.ndim == 3:
            return pixels[:, np.newaxis]
        elif pixels.ndim == 4 and shape[3] in (1, 3):
            return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        elif pixels.ndim == 4 and shape[1] in (1, 3):
            return pixels
    raise InputError(
        f"{where}: shape {shape}; images are [n, height, width], [n, height, width, channels], "
        "[n, channels, height, width] or [n, side² or 3·side²], with 1 or 3 channels"
    )


def conform(collection: Collection, config: DataConfig) -> Collection:
    """The collection with all images of one size and number of channels, as `data` asks.

    Raises:
        InputError: naming `data.image_size`, if splits differ in size and it is not set.
    """
    shapes = {split: images.pixels.shape[1:] for split, images in collection.splits.items()}
    height, width = _common_size(shapes, config)
    most = max(shape[0] for shape in shapes.values())
    channels = {"auto": most, "grey": 1, "rgb": 3}[config.color]
    return Collection(
        collection.classes,
        {
            split: Images(_fitted(images.pixels, (channels, height, width)), images.labels)
            for split, images in collection.splits.items()
        },
    )


def _common_size(shapes: Mapping[str, tuple[int, ...]], config: DataConfig) -> tuple[int, int]:
    if config.image_size is not None:
        return config.image_size, config.image_size
    _, height, width = shapes["train"]
    for split, (_, other_height, other_width) in shapes.items():
        if (other_height, other_width) != (height, width):
            raise InputError(
                f"data.image_size is not set, but images have different sizes: {width}x{height} in train, "
                f"{other_width}x{other_height} in {split} (width x height)"
            )
    return height, width


def _fitted(pixels: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    if pixels.shape[1:] == shape:
        return pixels
    from PIL import Image

    fitted = np.empty((len(pixels), *shape), dtype=np.uint8)
    for number, image in enumerate(pixels):
        plane = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        fitted[number] = fit_picture(Image.fromarray(plane), shape)
    return fitted
