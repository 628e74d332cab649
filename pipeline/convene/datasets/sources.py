"""Sources of images: known data sets, and formats of folders and files."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from convene.config.schema import DataConfig
from convene.config.validation import suggestion
from convene.datasets import digits, idx, image_folder, npz, parquet
from convene.datasets.dataset import SourceData
from convene.datasets.download import ARCHIVES, cache_folder, fetch, fetch_from_store, is_object_uri
from convene.datasets.file_tree import printable
from convene.errors import InputError


def _read_archive(name: str, cache: Path | None) -> SourceData:
    archive, folder = ARCHIVES[name], cache_folder(name, cache)
    fetch(archive, folder)
    return idx.read(folder, classes=archive.classes)


def _is_file(path: Path, suffix: str) -> bool:
    """Return whether a path is a file, not a pipe or a device, whose name has a suffix in any case."""
    return path.is_file() and path.suffix.lower() == suffix


@dataclass(frozen=True)
class FileFormat:
    """A kind of folder or file that can be a source."""

    matches: Callable[[Path], bool]
    """Predicate for paths of this kind."""
    read: Callable[[Path, DataConfig], SourceData]


NAMED_SOURCES: dict[str, Callable[[Path | None], SourceData]] = {
    "digits": lambda cache: digits.read(),
    **{name: partial(_read_archive, name) for name in ARCHIVES},
}
"""Readers of known data sets by name; each is called with the folder for downloads."""

FILE_FORMATS = (
    FileFormat(idx.has_files, lambda path, config: idx.read(path)),
    FileFormat(parquet.has_files, parquet.read),
    FileFormat(Path.is_dir, image_folder.read),
    FileFormat(partial(_is_file, suffix=".npz"), lambda path, config: npz.read(path)),
    FileFormat(partial(_is_file, suffix=".parquet"), parquet.read),
)
"""Formats of folders and files; the first that matches a path reads it."""


def local_path(source: str, cache: Path | None) -> Path | None:
    """Return the local path of a source, or None for a known data set.

    Raises:
        InputError: if the source is neither a known data set nor an existing path or object.
    """
    if source in NAMED_SOURCES:
        return None
    if is_object_uri(source):
        return fetch_from_store(source, cache)
    return _existing_path(source)


def _existing_path(source: str) -> Path:
    try:
        path = Path(source).expanduser()
        if source and path.exists():
            return _utf8(path.resolve(), source)
    except (OSError, RuntimeError, ValueError):
        pass  # A path that is too long or has a zero byte or an unknown user does not exist.
    if "://" in source:
        raise InputError(
            f"data.source = {source!r}: must be a known data set, a path or s3://BUCKET/PATH; other "
            "addresses are not read"
        )
    raise InputError(
        f"data.source = {source!r}: neither a known data set nor an existing path"
        f"{suggestion(source, NAMED_SOURCES)}"
    )


def _utf8(path: Path, source: str) -> Path:
    """Return the path, which records and MLflow must be able to store as text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"data.source = {source!r}: the path {printable(path)} must be UTF-8") from None
    return path


def read_source(config: DataConfig, path: Path | None, cache: Path | None) -> SourceData:
    """Return the content of a source, whose `path` is from `local_path`.

    Raises:
        InputError: if the source is of no known kind, or broken.
        OSError: if a file cannot be read.
        WorkError: if a public data set cannot be downloaded.
    """
    if path is None:
        return NAMED_SOURCES[config.source](cache)
    for file_format in FILE_FORMATS:
        if file_format.matches(path):
            return file_format.read(path, config)
    raise InputError(f"data.source = {config.source!r}: not a folder, a .parquet or a .npz file")
