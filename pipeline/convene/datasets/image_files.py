"""Image files without labels, in chunks for prediction."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convene.datasets.decoding import SUFFIXES, EncodedImage, Shape, decode_all
from convene.datasets.image_folder import image_files
from convene.errors import InputError


def iterate_images(
    path: Path, *, image_shape: Shape, chunk: int = 1024
) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """Read an image file, or all images in a folder and its subfolders, sorted.

    Images are decoded as for training, and converted to `image_shape` (channels, height, width): to colour
    for three channels, to grey for one.

    Yields:
        Names and pixels, uint8 [image, channel, height, width], of up to `chunk` images. Names are relative
        to the folder, with forward slashes. Memory does not grow with the number of images.

    Raises:
        InputError: at the call if the path does not exist or has no images; later for an unreadable image.
    """
    if path.is_file():
        return _chunks(path.parent, iter([path]), image_shape, chunk)
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder of images")
    files = _readable(path)
    first = next(files, None)
    if first is None:
        raise InputError(f"{path}: no images found; image files end with {', '.join(sorted(SUFFIXES))}")
    return _chunks(path, chain([first], files), image_shape, chunk)


def _readable(folder: Path) -> Iterator[Path]:
    try:
        yield from image_files(folder)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from None


def _chunks(
    folder: Path, files: Iterator[Path], shape: Shape, chunk: int
) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    while paths := list(islice(files, chunk)):
        pixels = decode_all([EncodedImage(str(path), path) for path in paths], shape, resize=True)
        yield [path.relative_to(folder).as_posix() for path in paths], pixels
