"""Encoded images as uint8 [channel, height, width]: one way for training and prediction."""

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
from convene.datasets.memory import check_room
from convene.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
# A list, so that no rarer decoder is run on a file that only claims to be an image.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F"})
_ORIENTATION = 0x0112  # The EXIF tag; 5 to 8 lie on a side.
_BLOCK = 64

Shape = tuple[int, int, int]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Encoded:
    """An image as it is stored: in a file, or its bytes; and what messages call it."""

    name: str
    content: Path | bytes


def decode_splits(
    splits: Mapping[str, Sequence[Encoded]], config: DataConfig
) -> dict[str, NDArray[np.uint8]]:
    """Each split as [example, channel, height, width], all of one shape.

    With `data.color` "auto" there are three channels if any image is stored in colour, whatever its
    pixels: in a colour mode, or with a palette that is not all grey.

    Raises:
        InputError: for an image that cannot be read, sizes that differ with no `data.image_size` set, or more
            than this machine's memory holds.
    """
    shape = _common_shape(list(chain.from_iterable(splits.values())), config)
    check_room(sum(map(len, splits.values())), shape, f"data.source = {config.source!r}")
    resize = config.image_size is not None
    return {split: decode_all(images, shape, resize=resize) for split, images in splits.items()}


def decode_all(images: Sequence[Encoded], shape: Shape, *, resize: bool) -> NDArray[np.uint8]:
    """The images as [example, channel, height, width], decoded by a few threads.

    Raises:
        InputError: naming the first image that cannot be read or, unless they are to be resized, has
            another size.
    """
    try:
        pixels = np.empty((len(images), *shape), dtype=np.uint8)
    except MemoryError:
        gigabytes = len(images) * np.prod(shape, dtype=float) / 1e9
        raise InputError(
            f"data.image_size: {len(images)} images of {shape[2]}x{shape[1]} pixels take {gigabytes:.0f} GB; "
            "set a smaller size"
        ) from None

    def decode_block(start: int) -> None:
        for number, image in enumerate(images[start : start + _BLOCK], start):
            pixels[number] = decode(image, shape, resize=resize)

    _in_blocks(decode_block, len(images))
    return pixels


def decode(image: Encoded, shape: Shape, *, resize: bool = True) -> NDArray[np.uint8]:
    """One image as [channel, height, width], upright as its EXIF orientation says.

    Of animations and documents the first frame counts; 16 bits become 8; transparent parts lie on white.

    Raises:
        InputError: if it cannot be read, has 32-bit pixels, or has another size and is not to be resized.
    """
    from PIL import ImageOps

    with _opened(image) as picture:
        if resize:
            # Lets a JPEG of a camera be decoded at a fraction of its size, but not below twice what is asked.
            side = 2 * max(shape[1:])
            picture.draft(None, (side, side))
        upright = ImageOps.exif_transpose(picture)
        if not resize and upright.size != (shape[2], shape[1]):
            raise _different_sizes(image.name, upright.size, "others", (shape[2], shape[1]))
        return fit_picture(_eight_bit(upright, image.name), shape)


def fit_picture(picture: "Image", shape: Shape) -> NDArray[np.uint8]:
    """An 8-bit picture as [channel, height, width].

    Grey is ITU-R 601 luma; resizing is bilinear with antialiasing and does not keep the aspect ratio.
    """
    from PIL.Image import Resampling

    channels, height, width = shape
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def _opened(image: Encoded) -> Iterator["Image"]:
    from PIL import Image, UnidentifiedImageError

    content = image.content
    try:
        # A stream, for Pillow maps a file that it opens by name, and then scrambles TIFFs that lie on a side.
        with (
            io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream,
            Image.open(stream, formats=_FORMATS) as picture,
        ):
            yield picture
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # Decoders fed with broken bytes raise nearly anything: OSError, SyntaxError, KeyError, struct.error.
        reason = "no image of a known format" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"{image.name}: cannot be read as an image: {reason}") from None


def _eight_bit(picture: "Image", name: str) -> "Image":
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise InputError(f"{name}: 32-bit pixels have no known range; store 8 or 16 bits")
    if picture.has_transparency_data:
        page = Image.new("RGBA", picture.size, "white")
        page.alpha_composite(picture.convert("RGBA"))
        return page.convert("RGB")
    return picture.convert("RGB") if picture.mode == "P" else picture


def _common_shape(images: Sequence[Encoded], config: DataConfig) -> Shape:
    """Channels, height and width for all, from the headers."""
    size = config.image_size
    if size is not None and config.color != "auto":
        return (1 if config.color == "grey" else 3), size, size

    def survey_block(start: int) -> list[tuple[tuple[int, int], bool]]:
        return [_survey(image) for image in images[start : start + _BLOCK]]

    found = list(chain.from_iterable(_in_blocks(survey_block, len(images))))
    colour = config.color == "rgb" or (config.color == "auto" and any(colour for _, colour in found))
    if size is not None:
        return (3 if colour else 1), size, size
    first, _ = found[0]
    for image, (other, _) in zip(images, found, strict=True):
        if other != first:
            raise _different_sizes(images[0].name, first, image.name, other)
    return (3 if colour else 1), first[1], first[0]


def _survey(image: Encoded) -> tuple[tuple[int, int], bool]:
    """Upright width and height, and whether it is stored in colour. Decodes no pixels."""
    with _opened(image) as picture:
        # Of a TIFF Pillow gives the upright size. For a PNG's orientation it would decode the pixels, if need
        # be: it may stand behind them.
        asked = picture.format != "TIFF" and (picture.format != "PNG" or "exif" in picture.info)
        turned = asked and picture.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        width, height = picture.size
        return ((height, width) if turned else (width, height)), _in_colour(picture)


def _in_colour(picture: "Image") -> bool:
    if picture.mode in ("P", "PA"):
        palette = np.array(picture.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return picture.mode not in _GREY_MODES and not picture.mode.startswith("I;16")


def _different_sizes(name: str, size: tuple[int, int], other: str, other_size: tuple[int, int]) -> InputError:
    return InputError(
        f"data.image_size is not set, but images have different sizes: {name} has {size[0]}x{size[1]}, "
        f"{other} {other_size[0]}x{other_size[1]} (width x height)"
    )


def _in_blocks(work: Callable[[int], Result], count: int) -> list[Result]:
    """`work(start)` for each block of images, by a few threads; results, and the first error, in order."""
    pool = ThreadPoolExecutor(max_workers=min(8, cpu_count() or 1))
    try:
        return list(pool.map(work, range(0, count, _BLOCK)))
    finally:
        pool.shutdown(cancel_futures=True)
