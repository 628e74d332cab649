"""Conversion of pixel arrays to uint8 [example, channel, height, width] of one shape."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convene.config.schema import DataConfig
from convene.datasets.dataset import Images, SourceData
from convene.datasets.decoding import convert_image
from convene.errors import InputError

_CHUNK = 4096


def as_pixels(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Return pixels as uint8 [example, channel, height, width].

    Args:
        values: whole numbers from 0 to 255 of any type, or booleans for black and white. The layout is
            [example, height, width], the same with channels last or first, or flat, [example, side² or
            3·side²], by rows and with the three channels of each pixel together. Four axes mean channels last
            if the last axis has length 1 or 3, else channels first if the second has.
        where: name of the values in error messages.

    Raises:
        InputError: for other shapes, fractions, and numbers outside 0 to 255.
    """
    return _channels_first(_as_uint8(values, where), where)


def _as_uint8(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if values.dtype == np.uint8 or not values.ndim:
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise InputError(
            f"{where}: values of type {values.dtype}; pixels must be whole numbers from 0 to 255"
        )
    pixels = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        with np.errstate(invalid="ignore"):
            pixels[start : start + _CHUNK] = chunk
        if not np.array_equal(pixels[start : start + _CHUNK], chunk):
            raise InputError(
                f"{where}: {values.dtype} values from {chunk.min()} to {chunk.max()}; pixels must be whole "
                "numbers from 0 to 255 (multiply images of 0 to 1 by 255 and round them)"
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
        f"{where}: shape {shape}; images must be [n, height, width], [n, height, width, channels], "
        "[n, channels, height, width] or [n, side² or 3·side²], with 1 or 3 channels"
    )


def unify_shapes(data: SourceData, config: DataConfig) -> SourceData:
    """Return the data with images of one size and number of channels, by `data.image_size` and `data.color`.

    Raises:
        InputError: if splits differ in size and `data.image_size` is not set.
    """
    shapes = {split: images.pixels.shape[1:] for split, images in data.splits.items()}
    height, width = _common_size(shapes, config)
    max_channels = max(shape[0] for shape in shapes.values())
    channels = {"auto": max_channels, "grey": 1, "rgb": 3}[config.color]
    return SourceData(
        data.classes,
        {
            split: Images(_convert(images.pixels, (channels, height, width)), images.labels)
            for split, images in data.splits.items()
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


def _convert(pixels: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    if pixels.shape[1:] == shape:
        return pixels
    from PIL import Image

    converted = np.empty((len(pixels), *shape), dtype=np.uint8)
    for number, image in enumerate(pixels):
        picture = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        converted[number] = convert_image(Image.fromarray(picture), shape)
    return converted
