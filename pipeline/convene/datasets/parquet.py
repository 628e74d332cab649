"""Parquet files with a column of images and a column of labels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convene.config.schema import DataConfig
from convene.datasets.arrow import image_values, label_values
from convene.datasets.dataset import Images, SourceData
from convene.datasets.decoding import EncodedImage, decode_splits
from convene.datasets.file_tree import printable
from convene.datasets.hugging_face import class_names, find_columns
from convene.datasets.labels import as_labels, encode
from convene.datasets.memory import check_images_fit
from convene.datasets.parquet_files import find_files, group_by_split
from convene.datasets.pixels import as_pixels
from convene.errors import InputError

# A small number, because Arrow often stores pixels as 64-bit integers.
_BATCH_ROWS = 256


@dataclass(frozen=True)
class _Split:
    """The rows of a split, either as pixels or as encoded images."""

    pixels: NDArray[np.uint8] | None
    encoded: list[EncodedImage]
    labels: NDArray[Any]
    class_names: list[str] | None


def has_files(folder: Path) -> bool:
    """Return whether the folder has Parquet files, itself or in a layout of Hugging Face."""
    return folder.is_dir() and bool(find_files(folder))


def read(path: Path, config: DataConfig) -> SourceData:
    """Return the images and labels of a file, or of the files in a folder (see `parquet_files`).

    A single file, or a folder without names of splits, has no splits. An image is a list of pixels (flat or
    nested, see `pixels.as_pixels`), the bytes of an image file, or a struct with such `bytes`. Class names
    come from Hugging Face's metadata, or else are the distinct labels. The metadata also states the columns
    if there are none with the default names.

    Raises:
        InputError: if a file is broken, a column is missing, or values are not images or labels.
    """
    files = {"train": [path]} if path.is_file() else group_by_split(path)
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


def _read_split(paths: Sequence[Path], config: DataConfig) -> _Split:
    pixels: list[NDArray[np.uint8]] = []
    encoded: list[EncodedImage] = []
    labels: list[NDArray[Any]] = []
    names = None
    for path in paths:
        row = 0
        for batch, file_names in _batches(path, config):
            names = names or file_names
            where = f"{path}: {batch.schema.names[0]}"
            content = image_values(batch.column(0), where, row)
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
            where = f"{path}: {batch.schema.names[1]}"
            labels.append(as_labels(label_values(batch.column(1), where, row), where))
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
        with _report_errors(path), path.open("rb") as stream:
            rows += pq.read_metadata(stream).num_rows
    return rows


def _batches(path: Path, config: DataConfig) -> Iterator[tuple[Any, list[str] | None]]:
    """Yield record batches of the images and the labels, each with the names of the classes, if known."""
    import pyarrow.parquet as pq

    # A stream, because Arrow does not open paths that are not UTF-8.
    with _report_errors(path), path.open("rb") as stream, pq.ParquetFile(stream) as file:
        schema = file.schema_arrow
        image = _choose_column(schema, "image", config.image_column, path)
        label = _choose_column(schema, "label", config.label_column, path)
        names = class_names(schema, label)
        for batch in file.iter_batches(_BATCH_ROWS, columns=[image, label]):
            if len(batch):
                yield batch.select([image, label]), names


def _choose_column(schema: Any, role: Literal["image", "label"], column: str, path: Path) -> str:
    """Return the configured column, or instead of a missing default the one that the metadata states.

    Raises:
        InputError: if there is no such column, or several.
    """
    field = f"{role}_column"
    found = schema.names.count(column)
    if not found and column == DataConfig.model_fields[field].default:
        candidates = find_columns(schema, role)
        if len(candidates) == 1 and schema.names.count(candidates[0]) == 1:
            return candidates[0]
    if found != 1:
        problem = "several such columns" if found else "no such column"
        raise InputError(
            f"data.{field} = {column!r}: {problem} in {printable(path)}, which has {', '.join(schema.names)}"
        )
    return column


@contextmanager
def _report_errors(path: Path) -> Iterator[None]:
    """Turn an Arrow error into an InputError that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(path)}: cannot be read as Parquet: {error}") from None


def _describe_size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[3]}x{pixels.shape[2]} with {pixels.shape[1]} channels"
