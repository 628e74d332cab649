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
from convene.datasets.dataset import Images, SourceData
from convene.datasets.decoding import EncodedImage, decode_splits
from convene.datasets.labels import as_labels, encode
from convene.datasets.memory import check_images_fit
from convene.datasets.pixels import as_pixels
from convene.errors import InputError

logger = logging.getLogger(__name__)

# A small number, because Arrow often stores pixels as 64-bit integers.
_BATCH_ROWS = 256
_PREFIXES = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}


@dataclass(frozen=True)
class _Split:
    """The rows of a split, either as pixels or as encoded images."""

    pixels: NDArray[np.uint8] | None
    encoded: list[EncodedImage]
    labels: NDArray[Any]
    class_names: list[str] | None


def has_files(folder: Path) -> bool:
    """Return whether the folder, or `data/` in it, has Parquet files."""
    return bool(_find_files(folder))


def read(path: Path, config: DataConfig) -> SourceData:
    """Return the images and labels of a file, or of the files in a folder or its `data/`.

    Files of a folder belong to splits by the start of their names: `train`, `valid` or `val`, and `test`. A
    single file, or a folder without such names, has no splits. An image is a list of pixels (flat or nested,
    see `pixels.as_pixels`), the bytes of an image file, or a struct with such `bytes`. Class names come from
    Hugging Face's metadata, or else are the distinct labels.

    Raises:
        InputError: if a file is broken, a column is missing, or values are not images or labels.
    """
    files = {"train": [path]} if path.is_file() else _group_by_split(path)
    rows = {split: _read_split(paths, config) for split, paths in files.items()}
    classes, labels = encode(
        {split: part.labels for split, part in rows.items()},
        names=rows["train"].class_names,
        where=f"{path}: {config.label_column}",
    )
    encoded = {split: part.encoded for split, part in rows.items() if part.pixels is None}
    if encoded and len(encoded) < len(rows):
        raise InputError(f"{path}: {config.image_column} has encoded images only in {', '.join(encoded)}")
    decoded = decode_splits(encoded, config) if encoded else {}
    pixels = decoded | {split: part.pixels for split, part in rows.items() if part.pixels is not None}
    return SourceData(classes, {split: Images(pixels[split], labels[split]) for split in rows})


def _find_files(folder: Path) -> list[Path]:
    for parent in (folder, folder / "data"):
        if parent.is_dir():
            files = sorted(
                path
                for path in parent.iterdir()
                if path.suffix == ".parquet" and not path.name.startswith(".")
            )
            if files:
                return files
    return []


def _group_by_split(folder: Path) -> dict[str, list[Path]]:
    files = _find_files(folder)
    splits: dict[str, list[Path]] = {}
    for path in files:
        split = next((split for prefix, split in _PREFIXES.items() if path.name.startswith(prefix)), "")
        splits.setdefault(split, []).append(path)
    others = splits.pop("", [])
    if not splits:
        return {"train": files}
    if "train" not in splits:
        raise InputError(f"{folder}: no Parquet file name starts with train; found {files[0].name}")
    if others:
        logger.warning("%s: ignoring %s beside train", folder, ", ".join(path.name for path in others))
    return splits


def _read_split(paths: Sequence[Path], config: DataConfig) -> _Split:
    pixels: list[NDArray[np.uint8]] = []
    encoded: list[EncodedImage] = []
    labels: list[NDArray[Any]] = []
    names = None
    for path in paths:
        row = 0
        for batch, schema in _batches(path, config):
            names = names or _class_names(schema, config.label_column)
            where = f"{path}: {config.image_column}"
            content = image_values(batch.column(config.image_column), where, row)
            if isinstance(content, list):
                encoded += [EncodedImage(f"{path}, row {row + n}", image) for n, image in enumerate(content)]
            else:
                pixels.append(as_pixels(content, where))
                if len(pixels) == 1:
                    source = f"data.source = {config.source!r}"
                    check_images_fit(_count_rows(paths), pixels[0].shape[1:], source)
                if pixels[-1].shape[1:] != pixels[0].shape[1:]:
                    raise InputError(
                        f"{where}: images of different sizes: {_describe_size(pixels[0])}, but "
                        f"{_describe_size(pixels[-1])} in the {_BATCH_ROWS} rows from {row}; "
                        "lists of pixels must have the same size"
                    )
            where = f"{path}: {config.label_column}"
            labels.append(as_labels(label_values(batch.column(config.label_column), where, row), where))
            row += len(batch)
    if not labels:
        raise InputError(
            f"{paths[0]}: no rows{f', and none in the next {len(paths) - 1} files' * (len(paths) > 1)}"
        )
    if pixels and encoded:
        raise InputError(
            f"{paths[0].parent}: {config.image_column} has pixels in some files and encoded images in others"
        )
    if len({array.dtype.kind == "U" for array in labels}) > 1:
        raise InputError(
            f"{paths[0].parent}: {config.label_column} has numbers in some files and strings in others"
        )
    return _Split(np.concatenate(pixels) if pixels else None, encoded, np.concatenate(labels), names)


def _count_rows(paths: Sequence[Path]) -> int:
    """Return the number of rows of all files, from their metadata."""
    import pyarrow.parquet as pq

    rows = 0
    for path in paths:
        with _report_errors(path):
            rows += pq.read_metadata(path).num_rows
    return rows


def _batches(path: Path, config: DataConfig) -> Iterator[tuple[Any, Any]]:
    """Yield record batches of the two columns, each with the schema."""
    import pyarrow.parquet as pq

    with _report_errors(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        for field, column in (
            ("data.image_column", config.image_column),
            ("data.label_column", config.label_column),
        ):
            if schema.names.count(column) != 1:
                problem = "several such columns" if column in schema.names else "no such column"
                raise InputError(
                    f"{field} = {column!r}: {problem} in {path}, which has {', '.join(schema.names)}"
                )
        for batch in file.iter_batches(_BATCH_ROWS, columns=[config.image_column, config.label_column]):
            if len(batch):
                yield batch, schema


@contextmanager
def _report_errors(path: Path) -> Iterator[None]:
    """Turn an Arrow error into an InputError that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from None


def _class_names(schema: Any, label_column: str) -> list[str] | None:
    """Return the names of a Hugging Face ClassLabel in the metadata of the schema, or None."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][label_column]["names"]
        return [str(name) for name in names]
    except (KeyError, TypeError, ValueError):
        return None


def _describe_size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[3]}x{pixels.shape[2]} with {pixels.shape[1]} channels"
