"""Images without labels, for prediction, a chunk at a time."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convene.datasets.decoding import SUFFIXES, Encoded, Shape, decode_all
from convene.datasets.image_folder import image_files
from convene.errors import InputError


def iterate_images(
    path: Path, *, image_shape: Shape, chunk: int = 1024
) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """Names and pixels of an image file, or of all images in a folder and the folders in it, sorted.

    They are read as those of a training folder are: in colour if `image_shape`, (channels, height, width),
    has three channels, grey if it has one, and resized to it.

    Yields:
        At most `chunk` names, of a folder relative to it and with forward slashes, and as many images,
        uint8 [image, channel, height, width]. Memory does not grow with the number of images.

    Raises:
        InputError: at the call if there is no such path or no image in it; later for an unreadable image.
    """
    if path.is_file():
        return _chunks(path.parent, iter([path]), image_shape, chunk)
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder of images")
    files = _readable(path)
    first = next(files, None)
    if first is None:
        raise InputError(f"{path}: no images there; images are {', '.join(sorted(SUFFIXES))}")
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
        pixels = decode_all([Encoded(str(path), path) for path in paths], shape, resize=True)
        yield [path.relative_to(folder).as_posix() for path in paths], pixels
