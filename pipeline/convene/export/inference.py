"""Predictions from an exported folder with ONNX Runtime alone, without PyTorch, Ray or MLflow."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from convene.errors import InputError, WorkError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT = 1
"""Version of the folder's layout, increased when older readers would misread it."""
MANIFEST = "manifest.json"
ONNX_FILE = "model.onnx"
INPUT = "images"
OUTPUTS = ("logits", "probabilities")
TABLE_SUFFIXES = (".csv", ".parquet")
"""File types of `write_table`."""


def _check_file_name(name: str) -> str:
    """Reject a name that leads out of the folder, because manifests may come from anywhere."""
    if name in {"", ".", "..", MANIFEST} or Path(name).name != name or "\\" in name:
        raise ValueError(f"{name!r} is not the name of a file in the folder")
    return name


_PositiveInt = Annotated[int, Field(ge=1)]


class Manifest(BaseModel):
    """The part of `manifest.json` that readers need."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1]
    """Version of the layout."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Class names, in the order of the logits."""
    image_shape: tuple[_PositiveInt, _PositiveInt, _PositiveInt]
    """(channels, height, width)."""
    files: dict[Annotated[str, AfterValidator(_check_file_name)], str]
    """SHA-256 of every other file in the folder, by file name."""


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an export, and check that all files exist, but not their content.

    Raises:
        InputError: if the manifest or a file is missing, malformed, or written by a newer version.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if not path.is_file():
        raise InputError(f"{folder}: not an exported ensemble: {MANIFEST} is missing")
    try:
        content = json.loads(path.read_bytes())
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise InputError(f"{path}: format {version} is newer than {FORMAT}, the newest that is supported")
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "content"
        raise InputError(f"{path}: {where}: {problem['msg'][0].lower()}{problem['msg'][1:]}") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    missing = [name for name in dict.fromkeys([ONNX_FILE, *manifest.files]) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: incomplete export, without {', '.join(missing)}")
    return manifest


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_session(model: Path, threads: int) -> "InferenceSession":
    """Open an ONNX Runtime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Only errors: warnings concern devices that this session does not use.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def batch_size(image_shape: tuple[int, int, int]) -> int:
    """Return how many images to run at a time, 1 to 256: fewer if they are large, to limit memory."""
    _, height, width = image_shape
    return min(256, max(1, 2**20 // (height * width)))


def predict(
    folder: Path, images: Path, *, chunk: int = 1024, threads: int | None = None
) -> Iterator[pd.DataFrame]:
    """Predict the most probable class of each image, in chunks.

    Args:
        folder: an exported ensemble; only `manifest.json` and `model.onnx` are used.
        images: anything that `convene.datasets.iterate_images` reads.
        chunk: images in memory at a time.
        threads: threads of ONNX Runtime; by default one per CPU that this process may use.

    Returns:
        Frames of at most `chunk` rows with the columns `file` (as named by `iterate_images`), `label` (the
        class name) and `probability` (float32, of that class).

    Raises:
        InputError: at once if the folder is not a complete export of a supported format, its model does not
            match the manifest, or there are no images; during the iteration if an image cannot be read.
    """
    from convene.datasets import iterate_images

    manifest = read_manifest(folder)
    _check_model_file(folder, manifest)
    session = open_session(folder / ONNX_FILE, threads or _usable_cpus())
    _check_model_shape(folder, manifest, session)
    chunks = iterate_images(images, image_shape=manifest.image_shape, chunk=chunk)
    return _predict_chunks(session, manifest.classes, chunks)


def write_table(frames: Iterable[pd.DataFrame], destination: Path) -> int:
    """Write frames of `predict` to a .csv or .parquet file, and return the number of rows.

    The file appears, or replaces an older one, only when all rows are written.

    Raises:
        InputError: if the suffix is not allowed, or the file's folder does not exist or is not writable.
        WorkError: if the disk is full or fails.
    """
    suffix = destination.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise InputError(f"{destination}: must be a {' or '.join(TABLE_SUFFIXES)} file")
    if not destination.parent.is_dir():
        raise InputError(f"{destination}: the folder {destination.parent} does not exist")
    if destination.is_dir():
        raise InputError(f"{destination}: is a folder")
    staging = destination.with_name(f".{destination.name}-{secrets.token_hex(4)}")
    try:
        rows = _write_parquet(frames, staging) if suffix == ".parquet" else _write_csv(frames, staging)
        staging.replace(destination)
    except PermissionError as error:
        raise InputError(f"{destination}: cannot be written: {error.strerror}") from error
    except OSError as error:
        raise WorkError(f"{destination}: could not be written: {error.strerror or error}") from error
    finally:
        staging.unlink(missing_ok=True)
    return rows


def _check_model_file(folder: Path, manifest: Manifest) -> None:
    """Raise InputError if the model file does not have the hash of the manifest."""
    # A model larger than 1.5 GB stores its weights in a second file, `model.onnx.data`.
    for name in dict.fromkeys([ONNX_FILE, *manifest.files]):
        if name.startswith(ONNX_FILE) and file_sha256(folder / name) != manifest.files.get(name):
            raise InputError(f"{folder / name}: does not match {MANIFEST}: its SHA-256 differs")


def _check_model_shape(folder: Path, manifest: Manifest, session: "InferenceSession") -> None:
    """Raise InputError if the model's input or output does not have the shape of the manifest."""
    _, *image_shape = session.get_inputs()[0].shape
    _, classes = session.get_outputs()[0].shape
    if (tuple(image_shape), classes) != (manifest.image_shape, len(manifest.classes)):
        raise InputError(
            f"{folder / MANIFEST}: {len(manifest.classes)} classes and images of shape "
            f"{manifest.image_shape}, but {ONNX_FILE} has {classes} classes and {tuple(image_shape)}"
        )


def _usable_cpus() -> int:
    """Return the number of CPUs that this process may use.

    ONNX Runtime's default counts all CPUs of the machine, which are too many in a container.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _predict_chunks(
    session: "InferenceSession",
    classes: tuple[str, ...],
    chunks: Iterable[tuple[list[str], NDArray[np.uint8]]],
) -> Iterator[pd.DataFrame]:
    """Predict the most probable class of each image in each chunk."""
    names = np.array(classes, dtype=object)
    for files, pixels in chunks:
        best, probability = _most_probable(session, pixels)
        yield pd.DataFrame({"file": files, "label": names[best], "probability": probability})


def _most_probable(
    session: "InferenceSession", pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the most probable classes and their probabilities, both [example]."""
    channels, height, width = pixels.shape[1:]
    step = batch_size((channels, height, width))
    best, probability = [], []
    for start in range(0, len(pixels), step):
        logits, probabilities = session.run(OUTPUTS, {INPUT: pixels[start : start + step]})
        best.append(logits.argmax(axis=1))
        probability.append(np.take_along_axis(probabilities, best[-1][:, None], axis=1)[:, 0])
    return np.concatenate(best), np.concatenate(probability)


def _write_csv(frames: Iterable[pd.DataFrame], path: Path) -> int:
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("file,label,probability\n")
        for frame in frames:
            frame.to_csv(file, columns=["file", "label", "probability"], header=False, index=False)
            rows += len(frame)
    return rows


def _write_parquet(frames: Iterable[pd.DataFrame], path: Path) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema({"file": pa.string(), "label": pa.string(), "probability": pa.float32()})
    rows = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for frame in frames:
            writer.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False))
            rows += len(frame)
    return rows
