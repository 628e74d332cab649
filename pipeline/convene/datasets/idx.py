"""IDX files, the format of MNIST and similar data sets."""

import gzip
import struct
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convene.datasets.dataset import Images, SourceData
from convene.datasets.labels import encode
from convene.datasets.memory import check_fits
from convene.errors import InputError

_PREFIXES = {"train": ("train",), "valid": ("valid", "val"), "test": ("t10k", "test")}
_KINDS = {"images": 3, "labels": 1}
_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20


def has_files(folder: Path) -> bool:
    """Return whether the folder has training images or labels as IDX files."""
    return any(_find(folder, "train", kind) for kind in _KINDS)


def read(folder: Path, *, classes: Sequence[str] | None = None) -> SourceData:
    """Return the images and labels of a folder of IDX files, gzipped or not.

    The folder must have `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, and can have `t10k-…` or
    `test-…` and `valid-…`. Names may have `.idx3-ubyte` for `-idx3-ubyte`, and end with `.gz`.

    Raises:
        InputError: if a file is missing or broken, or images and labels differ in number.
    """
    pixels, labels = {}, {}
    for split in _PREFIXES:
        files = {kind: _find(folder, split, kind) for kind in _KINDS}
        images, targets = files["images"], files["labels"]
        if images is None and targets is None and split != "train":
            continue
        if images is None or targets is None:
            present, kind = (targets, "images") if images is None else (images, "labels")
            missing = _names(_PREFIXES[split][0], kind)[0]
            raise InputError(
                f"{folder}: {missing} is missing{f', but {present.name} exists' if present else ''}"
            )
        pixels[split] = read_file(images, "images")[:, np.newaxis]
        labels[split] = read_file(targets, "labels")
        if len(pixels[split]) != len(labels[split]):
            raise InputError(
                f"{targets}: {len(labels[split])} labels, but {images.name} has {len(pixels[split])} images"
            )
    names, numbers = encode(labels, names=classes, where=str(folder))
    return SourceData(names, {split: Images(pixels[split], numbers[split]) for split in pixels})


def read_file(path: Path, kind: str) -> NDArray[np.uint8]:
    """Return the content of an IDX file of "images" [example, height, width] or "labels" [example].

    Raises:
        InputError: naming the file, the expected content and the actual content.
    """
    try:
        with path.open("rb") as raw:
            # Gzip is detected by content, not by name.
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
            shape = _read_shape(stream, path, kind)
            return _read_values(stream, path, shape, None if packed else path.stat().st_size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: truncated or broken gzip: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_shape(stream: Any, path: Path, kind: str) -> tuple[int, ...]:
    """Return the shape that the header of a file states."""
    axes = _KINDS[kind]
    length = _header_length(axes)
    magic = bytes([0, 0, 8, axes])
    header = stream.read(length)
    if header[:4] != magic:
        raise InputError(
            f"{path}: starts with {header[:4].hex(' ') or 'nothing'}, "
            f"but IDX {kind} of bytes start with {magic.hex(' ')}"
        )
    if len(header) < length:
        raise InputError(f"{path}: ends after {len(header)} bytes, but its header has {length}")
    shape = struct.unpack(f">{axes}I", header[4:])
    if 0 in shape:
        raise InputError(f"{path}: no {kind}: its header states {' x '.join(map(str, shape))}")
    return shape


def _read_values(stream: Any, path: Path, shape: tuple[int, ...], file_size: int | None) -> NDArray[np.uint8]:
    """Return the values after the header, and read no more of them than the header states.

    Args:
        stream: the unpacked file, after the header.
        path: the file, for error messages.
        shape: the shape of the values.
        file_size: bytes of the file, or None for a packed file, which may unpack to any size.
    """
    size, header = prod(shape), _header_length(len(shape))
    stated = f"its header of {header} bytes states {' x '.join(map(str, shape))} values"
    stated = f"{stated}, {header + size} bytes in all"
    if file_size is not None and file_size < header + size:
        raise InputError(f"{path}: truncated: {stated}, but it has {file_size}")
    check_fits(size, f"{path}: its values")
    values = np.empty(size, dtype=np.uint8)
    read = 0
    while read < size and (count := stream.readinto(values[read : read + _BLOCK])):
        read += count
    if read < size:
        raise InputError(f"{path}: truncated: {stated}, but it has {header + read}")
    if stream.read(1):
        raise InputError(f"{path}: too long: {stated}, but it has {file_size or 'more'}")
    return values.reshape(shape)


def _header_length(axes: int) -> int:
    return 4 + 4 * axes


def _find(folder: Path, split: str, kind: str) -> Path | None:
    for prefix in _PREFIXES[split]:
        for name in _names(prefix, kind):
            if (path := folder / name).is_file():
                return path
    return None


def _names(prefix: str, kind: str) -> list[str]:
    suffix = f"idx{_KINDS[kind]}-ubyte"
    return [f"{prefix}-{kind}{mark}{suffix}{end}" for end in ("", ".gz") for mark in "-."]
