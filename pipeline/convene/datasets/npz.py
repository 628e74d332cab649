"""A `.npz` file of images and labels, as Keras and others lay it out."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from convene.datasets.dataset import Collection, Images
from convene.datasets.labels import as_labels, encode
from convene.datasets.memory import check_bytes
from convene.datasets.pixels import as_pixels
from convene.errors import InputError

_ARRAYS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y")),
    "valid": (("x_valid", "y_valid"), ("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}


def read(path: Path) -> Collection:
    """The arrays x_train, y_train, x_test, y_test and, if there, x_valid, y_valid of the file.

    Or `images` and `labels`, or `x` and `y`, which are undivided. Nothing that is pickled is read.

    Raises:
        InputError: for a file that is broken, arrays that are missing or of lengths that differ, or values
            that are no pixels or labels.
    """
    pixels, labels = {}, {}
    with _opened(path) as file:
        for split, pairs in _ARRAYS.items():
            pair = next((pair for pair in pairs if pair[0] in file or pair[1] in file), None)
            if pair is None:
                if split == "train":
                    raise InputError(
                        f"{path}: holds {', '.join(file.files) or 'no arrays'}; needed are x_train, y_train, "
                        "x_test and y_test, or images and labels, or x and y"
                    )
                continue
            for name in pair:
                if name not in file:
                    raise InputError(f"{path}: array {name} is missing; it holds {', '.join(file.files)}")
            pixels[split] = as_pixels(_array(file, path, pair[0]), f"{path}: {pair[0]}")
            labels[split] = as_labels(_array(file, path, pair[1]), f"{path}: {pair[1]}")
            if len(pixels[split]) != len(labels[split]):
                raise InputError(
                    f"{path}: {pair[0]} has {len(pixels[split])} images, "
                    f"but {pair[1]} has {len(labels[split])} labels"
                )
    classes, numbers = encode(labels, where=str(path))
    return Collection(classes, {split: Images(pixels[split], numbers[split]) for split in pixels})


def _array(file: NpzFile, path: Path, name: str) -> NDArray[Any]:
    try:
        _check_room(file, path, name)
        array = np.asarray(file[name])
    except (ValueError, OverflowError, MemoryError, TokenError) as error:  # of headers that are broken
        raise InputError(f"{path}: array {name} cannot be read: {error}") from None
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _check_room(file: NpzFile, path: Path, name: str) -> None:
    """By the array's header, before its values are unpacked."""
    assert file.zip, "it is open"
    member = name if name in file.zip.namelist() else f"{name}.npy"  # as NumPy looks for it
    with file.zip.open(member) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    check_bytes(math.prod(shape) * dtype.itemsize, f"{path}: the values of {name}")


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    try:
        # A stream, for NumPy leaves a file open that it opened and then could not read.
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, NpzFile):
                raise InputError(f"{path}: a single array; a .npz holds images and labels")
            with file:
                yield file
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # RuntimeError: encrypted, or packed in a way that is not implemented.
        raise InputError(f"{path}: cannot be read as .npz: {error}") from None
