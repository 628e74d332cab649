"""IDX files, as MNIST and its kin ship them."""

import gzip
import struct
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convene.datasets.dataset import Collection, Images
from convene.datasets.labels import encode
from convene.errors import InputError

_PREFIXES = {"train": ("train",), "valid": ("valid", "val"), "test": ("t10k", "test")}
_KINDS = {"images": 3, "labels": 1}
_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20


def found_in(folder: Path) -> bool:
    """Whether the folder has training images or labels as IDX files."""
    return any(_find(folder, "train", kind) for kind in _KINDS)


def read(folder: Path, *, classes: Sequence[str] | None = None) -> Collection:
    """The images and labels of a folder of IDX files, gzipped or not.

    `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` must be there; `t10k-…` or `test-…` and
    `valid-…` may be. Names with `.idx3-ubyte` and an added `.gz` are as good.

    Raises:
        InputError: for a file that is missing, broken, or does not match its partner.
    """
    pixels, labels = {}, {}
    for split in _PREFIXES:
        files = {kind: _find(folder, split, kind) for kind in _KINDS}
        images, targets = files["images"], files["labels"]
        if images is None and targets is None and split != "train":
            continue
        if images is None or targets is None:
            there, kind = (targets, "images") if images is None else (images, "labels")
            missing = _names(_PREFIXES[split][0], kind)[0]
            raise InputError(f"{folder}: {missing} is missing{f' beside {there.name}' if there else ''}")
        pixels[split] = read_file(images, "images")[:, np.newaxis]
        labels[split] = read_file(targets, "labels")
        if len(pixels[split]) != len(labels[split]):
            raise InputError(
                f"{targets}: {len(labels[split])} labels, but {images.name} has {len(pixels[split])} images"
            )
    names, numbers = encode(labels, names=classes, where=str(folder))
    return Collection(names, {split: Images(pixels[split], numbers[split]) for split in pixels})


def read_file(path: Path, kind: str) -> NDArray[np.uint8]:
    """The content of one IDX file of "images" [example, height, width] or "labels" [example].

    Raises:
        InputError: naming the file, what was expected and what is there.
    """
    content = _unpacked(path)
    axes = _KINDS[kind]
    header = 4 + 4 * axes
    magic = bytes([0, 0, 8, axes])
    if bytes(content[:4]) != magic:
        raise InputError(
            f"{path}: begins with {bytes(content[:4]).hex(' ') or 'nothing'}, "
            f"but IDX {kind} of bytes begin with {magic.hex(' ')}"
        )
    if len(content) < header:
        raise InputError(f"{path}: ends after {len(content)} bytes, within its header of {header}")
    shape = struct.unpack(f">{axes}I", content[4:header])
    size = header + prod(shape)
    if len(content) != size:
        what = "truncated" if len(content) < size else "too long"
        raise InputError(
            f"{path}: {what}: its header promises {' x '.join(map(str, shape))} bytes after {header}, "
            f"so {size}, but it has {len(content)}"
        )
    if 0 in shape:
        raise InputError(f"{path}: holds no {kind}: its header says {' x '.join(map(str, shape))}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _unpacked(path: Path) -> bytearray:
    """All bytes, in a buffer that arrays may write to; gzip is known by its content, not by the name."""
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
