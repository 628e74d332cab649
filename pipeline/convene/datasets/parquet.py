"""Parquet files with a column of images and a column of labels."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convene.config.schema import DataConfig
from convene.datasets.arrow import image_values, label_values
from convene.datasets.dataset import Collection, Images
from convene.datasets.decoding import Encoded, decode_splits
from convene.datasets.labels import as_labels, encode
from convene.datasets.memory import check_room
from convene.datasets.pixels import as_pixels
from convene.errors import InputError

logger = logging.getLogger(__name__)

# Few, for Arrow holds pixels as 64-bit integers more often than not.
_BATCH_ROWS = 256
_PREFIXES = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}


@dataclass(frozen=True)
class _Rows:
    """The rows of one split: either `pixels` or `encoded` is there."""

    pixels: NDArray[np.uint8] | None
    encoded: list[Encoded]
    labels: NDArray[Any]
    class_names: list[str] | None


def found_in(folder: Path) -> bool:
    """Whether the folder, or `data/` in it, has Parquet files."""
    return bool(_files_of(folder))


def read(path: Path, config: DataConfig) -> Collection:
    """The images and labels of one file, undivided, or of a folder of files or its `data/`.

    A folder's files are divided by how their names begin, with `train`, `valid` or `val`, and `test`; if
    none begins so, they are undivided. An image is a list of pixels (flat or nested, as
    `pixels.as_pixels` takes them), the bytes of an image file, or a struct with such `bytes`. Class names
    are those that Hugging Face's metadata has, or the distinct labels.

    Raises:
        InputError: for a file that is broken, a column that is missing, and values that are no images or
            labels.
    """
    files = {"train": [path]} if path.is_file() else _by_split(path)
    rows = {split: _read_split(paths, config) for split, paths in files.items()}
    classes, labels = encode(
        {split: part.labels for split, part in rows.items()},
        names=rows["train"].class_names,
        where=f"{path}: {config.label_column}",
    )
    encoded = {split: part.encoded for split, part in rows.items() if part.pixels is None}
    if encoded and len(encoded) < len(rows):
        raise InputError(f"{path}: {config.image_column} has encoded images in {', '.join(encoded)} alone")
    decoded = decode_splits(encoded, config) if encoded else {}
    pixels = decoded | {split: part.pixels for split, part in rows.items() if part.pixels is not None}
    return Collection(classes, {split: Images(pixels[split], labels[split]) for split in rows})


def _files_of(folder: Path) -> list[Path]:
    for place in (folder, folder / "data"):
        if place.is_dir():
            found = sorted(
                p for p in place.iterdir() if p.suffix == ".parquet" and not p.name.startswith(".")
            )
            if found:
                return found
    return []


def _by_split(folder: Path) -> dict[str, list[Path]]:
    files = _files_of(folder)
    divided: dict[str, list[Path]] = {}
    for path in files:
        split = next((split for prefix, split in _PREFIXES.items() if path.name.startswith(prefix)), "")
        divided.setdefault(split, []).append(path)
    others = divided.pop("", [])
    if not divided:
        return {"train": files}
    if "train" not in divided:
        raise InputError(f"{folder}: no Parquet file's name begins with train; there is {files[0].name}")
    if others:
        logger.warning("%s: %s beside train does not count", folder, ", ".join(p.name for p in others))
    return divided


def _read_split(paths: Sequence[Path], config: DataConfig) -> _Rows:
    pixels: list[NDArray[np.uint8]] = []
    encoded: list[Encoded] = []
    labels: list[NDArray[Any]] = []
    names = None
    for path in paths:
        row = 0
        for batch, schema in _batches(path, config):
            names = names or _class_names(schema, config.label_column)
            where = f"{path}: {config.image_column}"
            content = image_values(batch.column(config.image_column), where, row)
            if isinstance(content, list):
                encoded += [Encoded(f"{path}, row {row + n}", image) for n, image in enumerate(content)]
            else:
                pixels.append(as_pixels(content, where))
                if len(pixels) == 1:
                    check_room(_count(paths), pixels[0].shape[1:], f"data.source = {config.source!r}")
                if pixels[-1].shape[1:] != pixels[0].shape[1:]:
                    raise InputError(
                        f"{where}: images of different sizes: {_size(pixels[0])}, but {_size(pixels[-1])} in "
                        f"the {_BATCH_ROWS} rows from {row}; lists of pixels have one size"
                    )
            where = f"{path}: {config.label_column}"
            labels.append(as_labels(label_values(batch.column(config.label_column), where, row), where))
            row += len(batch)
    if not labels:
        raise InputError(
            f"{paths[0]}: no rows{f', nor in the {len(paths) - 1} files after it' * (len(paths) > 1)}"
        )
    if pixels and encoded:
        raise InputError(
            f"{paths[0].parent}: {config.image_column} has pixels in some files, encoded images in others"
        )
    if len({array.dtype.kind == "U" for array in labels}) > 1:
        raise InputError(
            f"{paths[0].parent}: {config.label_column} has numbers in some files, texts in others"
        )
    return _Rows(np.concatenate(pixels) if pixels else None, encoded, np.concatenate(labels), names)


def _count(paths: Sequence[Path]) -> int:
    """The rows of all files, by what each says of itself at its end."""
    import pyarrow.parquet as pq

    rows = 0
    for path in paths:
        with _naming(path):
            rows += pq.read_metadata(path).num_rows
    return rows


def _batches(path: Path, config: DataConfig) -> Iterator[tuple[Any, Any]]:
    """Record batches of the two columns, and the schema."""
    import pyarrow.parquet as pq

    with _naming(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        for field, column in (
            ("data.image_column", config.image_column),
            ("data.label_column", config.label_column),
        ):
            if schema.names.count(column) != 1:
                has = "more than one such" if column in schema.names else "no such"
                raise InputError(
                    f"{field} = {column!r}: {has} column in {path}, which has {', '.join(schema.names)}"
                )
        for batch in file.iter_batches(_BATCH_ROWS, columns=[config.image_column, config.label_column]):
            if len(batch):
                yield batch, schema


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says of which file an error is that Arrow met in it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from None


def _class_names(schema: Any, label_column: str) -> list[str] | None:
    """The names of a Hugging Face ClassLabel, from the metadata of the schema."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][label_column]["names"]
        return [str(name) for name in names]
    except (KeyError, TypeError, ValueError):
        return None


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[3]}x{pixels.shape[2]} with {pixels.shape[1]} channels"
