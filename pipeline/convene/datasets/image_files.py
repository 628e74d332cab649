"""Image files without labels, in chunks for prediction."""

import logging
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convene.datasets.decoding import EncodedImage, Shape, decode_all
from convene.datasets.file_tree import LeftOut, image_files, printable
from convene.datasets.image_folder import ENDINGS
from convene.errors import InputError

logger = logging.getLogger(__name__)


def iterate_images(
    path: Path, *, image_shape: Shape, chunk: int = 1024
) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    r"""Read an image file, or all images in a folder and its subfolders, sorted.

    Images are decoded as for training, and converted to `image_shape` (channels, height, width): to colour
    for three channels, to grey for one.

    Yields:
        Names and pixels, uint8 [image, channel, height, width], of up to `chunk` images. Names are relative
        to the folder, with forward slashes, and `\xe9` and so on for bytes that are not UTF-8. Memory does
        not grow with the number of images. After the last chunk, a warning counts the files left out.

    Raises:
        InputError: at the call if the path does not exist or has no images; later for an unreadable image.
    """
    if path.is_file():
        return _chunks(path.parent, iter([path]), image_shape, chunk)
    where = printable(path)
    if not path.is_dir():
        problem = "a pipe or device, not a file" if path.exists() else "no such file"
        raise InputError(f"{where}: {problem} or folder of images")
    left_out = LeftOut()
    files = _readable(path, left_out)
    first = next(files, None)
    if first is None:
        raise InputError(
            f"{where}: no images found{f'; left out: {left_out}' if left_out else ''}; {ENDINGS}"
        )
    return _chunks(path, chain([first], files), image_shape, chunk)


def _readable(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    """Yield the image files of a folder, and then warn of what was left out."""
    where = printable(folder)
    try:
        yield from image_files(folder, left_out)
    except OSError as error:
        failed = printable(error.filename or where)
        raise InputError(f"{failed}: cannot be read: {error.strerror or error}") from None
    if left_out:
        logger.warning("%s: left out %s; %s", where, left_out, ENDINGS)


def _chunks(
    folder: Path, files: Iterator[Path], shape: Shape, chunk: int
) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    while paths := list(islice(files, chunk)):
        pixels = decode_all([EncodedImage(printable(path), path) for path in paths], shape, resize=True)
        yield [printable(path.relative_to(folder).as_posix()) for path in paths], pixels
