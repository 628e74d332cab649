"""Decoding of image files to uint8 [channel, height, width], for training and prediction alike."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from convene.config.schema import DataConfig
from convene.datasets.memory import check_images_fit
from convene.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
# Restricts Pillow to these decoders, so that a disguised file cannot reach a rarer one.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F"})
_ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 swap width and height
_BLOCK_SIZE = 64

Shape = tuple[int, int, int]
Result = TypeVar("Result")


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image."""

    name: str
    """Name of the image in error messages."""
    content: Path | bytes
    """The image file, or its bytes."""


def decode_splits(
    splits: Mapping[str, Sequence[EncodedImage]], config: DataConfig
) -> dict[str, NDArray[np.uint8]]:
    """Return the pixels of each split [example, channel, height, width], all in one shape.

    With `data.color` "auto" there are three channels if any image is stored in colour: in a colour mode, or
    with a palette that is not all grey. Its pixels do not matter.

    Raises:
        InputError: if an image cannot be read, sizes differ without `data.image_size`, or the images do not
            fit in memory.
    """
    shape = _common_shape(list(chain.from_iterable(splits.values())), config)
    check_images_fit(sum(map(len, splits.values())), shape, f"data.source = {config.source!r}")
    resize = config.image_size is not None
    return {split: decode_all(images, shape, resize=resize) for split, images in splits.items()}


def decode_all(images: Sequence[EncodedImage], shape: Shape, *, resize: bool) -> NDArray[np.uint8]:
    """Return the pixels of the images [example, channel, height, width], decoded in several threads.

    Raises:
        InputError: naming the first image that cannot be read or, without `resize`, has another size.
    """
    try:
        pixels = np.empty((len(images), *shape), dtype=np.uint8)
    except MemoryError:
        gigabytes = len(images) * np.prod(shape, dtype=float) / 1e9
        raise InputError(
            f"data.image_size: {len(images)} images of {shape[2]}x{shape[1]} pixels need {gigabytes:.0f} GB; "
            "set a smaller size"
        ) from None

    def decode_block(start: int) -> None:
        for number, image in enumerate(images[start : start + _BLOCK_SIZE], start):
            pixels[number] = decode(image, shape, resize=resize)

    _map_blocks(decode_block, len(images))
    return pixels


def decode(image: EncodedImage, shape: Shape, *, resize: bool = True) -> NDArray[np.uint8]:
    """Return the pixels of an image [channel, height, width], rotated by its EXIF orientation.

    Animations and documents give their first frame, 16-bit pixels are reduced to 8 bits, and transparent
    parts get a white background.

    Raises:
        InputError: if the image cannot be read, has 32-bit pixels or, without `resize`, has another size.
    """
    from PIL import ImageOps

    with _open(image) as picture:
        if resize:
            # Decodes a large JPEG at a fraction of its size, but at least at twice the target size.
            side = 2 * max(shape[1:])
            picture.draft(None, (side, side))
        upright = ImageOps.exif_transpose(picture)
        if not resize and upright.size != (shape[2], shape[1]):
            raise _size_error(image.name, upright.size, "others", (shape[2], shape[1]))
        return convert_image(_to_eight_bit(upright, image.name), shape)


def convert_image(picture: "Image", shape: Shape) -> NDArray[np.uint8]:
    """Return the pixels of an 8-bit picture [channel, height, width], converted to the shape.

    Grey is ITU-R 601 luma. Resizing is bilinear with antialiasing and ignores the aspect ratio.
    """
    from PIL.Image import Resampling

    channels, height, width = shape
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def _open(image: EncodedImage) -> Iterator["Image"]:
    from PIL import Image, UnidentifiedImageError

    content = image.content
    try:
        # A stream: Pillow memory-maps a file that it opens by name, and then corrupts rotated TIFFs.
        with (
            io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream,
            Image.open(stream, formats=_FORMATS) as picture,
        ):
            yield picture
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # Decoders raise many types for broken bytes: OSError, SyntaxError, KeyError, struct.error and others.
        reason = "not a known image format" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"{image.name}: cannot be read as an image: {reason}") from None


def _to_eight_bit(picture: "Image", name: str) -> "Image":
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise InputError(f"{name}: 32-bit pixels have no defined range; use 8 or 16 bits")
    if picture.has_transparency_data:
        background = Image.new("RGBA", picture.size, "white")
        background.alpha_composite(picture.convert("RGBA"))
        return background.convert("RGB")
    return picture.convert("RGB") if picture.mode == "P" else picture


def _common_shape(images: Sequence[EncodedImage], config: DataConfig) -> Shape:
    """Return the channels, height and width for all images, from their headers."""
    size = config.image_size
    if size is not None and config.color != "auto":
        return (1 if config.color == "grey" else 3), size, size

    def read_headers(start: int) -> list[tuple[tuple[int, int], bool]]:
        return [_read_header(image) for image in images[start : start + _BLOCK_SIZE]]

    headers = list(chain.from_iterable(_map_blocks(read_headers, len(images))))
    any_color = any(is_color for _, is_color in headers)
    channels = 3 if config.color == "rgb" or (config.color == "auto" and any_color) else 1
    if size is not None:
        return channels, size, size
    first, _ = headers[0]
    for image, (other, _) in zip(images, headers, strict=True):
        if other != first:
            raise _size_error(images[0].name, first, image.name, other)
    return channels, first[1], first[0]


def _read_header(image: EncodedImage) -> tuple[tuple[int, int], bool]:
    """Return the width and height after rotation, and whether the image is in colour. Decodes no pixels."""
    with _open(image) as picture:
        # Pillow reports a TIFF's size after rotation. A PNG may store EXIF data after its pixels, and Pillow
        # would decode them to find it.
        has_orientation = picture.format != "TIFF" and (picture.format != "PNG" or "exif" in picture.info)
        rotated = has_orientation and picture.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        width, height = picture.size
        return ((height, width) if rotated else (width, height)), _is_color(picture)


def _is_color(picture: "Image") -> bool:
    if picture.mode in ("P", "PA"):
        palette = np.array(picture.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return picture.mode not in _GREY_MODES and not picture.mode.startswith("I;16")


def _size_error(name: str, size: tuple[int, int], other: str, other_size: tuple[int, int]) -> InputError:
    return InputError(
        f"data.image_size is not set, but images have different sizes: {name} has {size[0]}x{size[1]}, "
        f"{other} {other_size[0]}x{other_size[1]} (width x height)"
    )


def _map_blocks(work: Callable[[int], Result], count: int) -> list[Result]:
    """Run `work(start)` for each block of images in several threads; return the results in order.

    If blocks fail, the error of the first one is raised.
    """
    pool = ThreadPoolExecutor(max_workers=min(8, cpu_count() or 1))
    try:
        return list(pool.map(work, range(0, count, _BLOCK_SIZE)))
    finally:
        pool.shutdown(cancel_futures=True)
