"""NumPy `.npz` files of images and labels, in the layouts of Keras and others."""

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

from convene.datasets.dataset import Images, SourceData
from convene.datasets.labels import as_labels, encode
from convene.datasets.memory import check_fits
from convene.datasets.pixels import as_pixels
from convene.errors import InputError

_ARRAYS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y")),
    "valid": (("x_valid", "y_valid"), ("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}


def read(path: Path) -> SourceData:
    """Return the images and labels of a file.

    The file has arrays x_train, y_train and optionally x_valid, y_valid and x_test, y_test, or other names
    from `_ARRAYS`. Arrays `images` and `labels`, or `x` and `y`, have no splits. Pickled arrays are not read.

    Raises:
        InputError: if the file is broken, arrays are missing or differ in length, or values are not pixels or
            labels.
    """
    pixels, labels = {}, {}
    with _open(path) as file:
        for split, pairs in _ARRAYS.items():
            pair = next((pair for pair in pairs if pair[0] in file or pair[1] in file), None)
            if pair is None:
                if split == "train":
                    raise InputError(
                        f"{path}: has {', '.join(file.files) or 'no arrays'}; it must have x_train, y_train, "
                        "x_test and y_test, or images and labels, or x and y"
                    )
                continue
            for name in pair:
                if name not in file:
                    raise InputError(f"{path}: array {name} is missing; the file has {', '.join(file.files)}")
            pixels[split] = as_pixels(_read_array(file, path, pair[0]), f"{path}: {pair[0]}")
            labels[split] = as_labels(_read_array(file, path, pair[1]), f"{path}: {pair[1]}")
            if len(pixels[split]) != len(labels[split]):
                raise InputError(
                    f"{path}: {pair[0]} has {len(pixels[split])} images, "
                    f"but {pair[1]} has {len(labels[split])} labels"
                )
    classes, numbers = encode(labels, where=str(path))
    return SourceData(classes, {split: Images(pixels[split], numbers[split]) for split in pixels})


def _read_array(file: NpzFile, path: Path, name: str) -> NDArray[Any]:
    try:
        _check_fits(file, path, name)
        array = np.asarray(file[name])
    except (ValueError, OverflowError, MemoryError, TokenError) as error:  # from broken headers
        raise InputError(f"{path}: array {name} cannot be read: {error}") from None
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _check_fits(file: NpzFile, path: Path, name: str) -> None:
    """Check that an array fits into memory, from its header."""
    assert file.zip, "the file is open"
    member = name if name in file.zip.namelist() else f"{name}.npy"  # as in NumPy
    with file.zip.open(member) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    check_fits(math.prod(shape) * dtype.itemsize, f"{path}: the values of {name}")


@contextmanager
def _open(path: Path) -> Iterator[NpzFile]:
    try:
        # A stream: NumPy does not close a file that it opened itself and could not read.
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, NpzFile):
                raise InputError(f"{path}: a single array; a .npz file must have images and labels")
            with file:
                yield file
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # RuntimeError: encrypted, or an unsupported compression.
        raise InputError(f"{path}: cannot be read as .npz: {error}") from None
