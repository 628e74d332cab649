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
    content = _read_unpacked(path)
    axes = _KINDS[kind]
    header = 4 + 4 * axes
    magic = bytes([0, 0, 8, axes])
    if bytes(content[:4]) != magic:
        raise InputError(
            f"{path}: starts with {bytes(content[:4]).hex(' ') or 'nothing'}, "
            f"but IDX {kind} of bytes start with {magic.hex(' ')}"
        )
    if len(content) < header:
        raise InputError(f"{path}: ends after {len(content)} bytes, but its header has {header}")
    shape = struct.unpack(f">{axes}I", content[4:header])
    size = header + prod(shape)
    if len(content) != size:
        problem = "truncated" if len(content) < size else "too long"
        raise InputError(
            f"{path}: {problem}: its header of {header} bytes states {' x '.join(map(str, shape))} values, "
            f"{size} bytes in all, but it has {len(content)}"
        )
    if 0 in shape:
        raise InputError(f"{path}: no {kind}: its header states {' x '.join(map(str, shape))}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _read_unpacked(path: Path) -> bytearray:
    """Return the unpacked bytes in a writable buffer. Gzip is detected by content, not by name."""
    content = bytearray()
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
            while block := stream.read(_BLOCK):
                content += block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: truncated or broken gzip: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    return content


def _find(folder: Path, split: str, kind: str) -> Path | None:
    for prefix in _PREFIXES[split]:
        for name in _names(prefix, kind):
            if (path := folder / name).is_file():
                return path
    return None


def _names(prefix: str, kind: str) -> list[str]:
    suffix = f"idx{_KINDS[kind]}-ubyte"
    return [f"{prefix}-{kind}{mark}{suffix}{end}" for end in ("", ".gz") for mark in "-."]
