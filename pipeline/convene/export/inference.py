"""Labels for images from an exported folder alone: ONNX Runtime, without PyTorch, Ray or MLflow."""

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
"""Version of the folder's layout. It rises when an older reader would go wrong."""
MANIFEST = "manifest.json"
ONNX_FILE = "model.onnx"
INPUT = "images"
OUTPUTS = ("logits", "probabilities")
TABLES = (".csv", ".parquet")
"""What `write_table` can write."""


def _plain(name: str) -> str:
    """A name that leads out of the folder is refused: manifests come from anywhere."""
    if name in {"", ".", "..", MANIFEST} or Path(name).name != name or "\\" in name:
        raise ValueError(f"{name!r} is not the name of a file in the folder")
    return name


Size = Annotated[int, Field(ge=1)]


class Manifest(BaseModel):
    """What a reader needs of `manifest.json`; it holds more, for people and for the model card."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1]
    """Version of the layout."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names, in the order of the logits."""
    image_shape: tuple[Size, Size, Size]
    """(channels, height, width)."""
    files: dict[Annotated[str, AfterValidator(_plain)], str]
    """SHA-256 of every other file in the folder, by name."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an exported folder whose files are all there; their content is not checked.

    Raises:
        InputError: naming what is missing or malformed, or that a newer version wrote it.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if not path.is_file():
        raise InputError(f"{folder}: not an exported ensemble: it has no {MANIFEST}")
    try:
        content = json.loads(path.read_bytes())
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise InputError(f"{path}: format {version} is newer than {FORMAT}, the newest known here")
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
        raise InputError(f"{folder}: not a complete export: {', '.join(missing)} missing")
    return manifest


def file_sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_session(model: Path, threads: int) -> "InferenceSession":
    """An ONNX Runtime session on the CPU with so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Errors alone: warnings are about devices that this session does not use.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def batch_size(image_shape: tuple[int, int, int]) -> int:
    """Images to run at a time, 1 to 256: so few that features of large ones do not outgrow memory."""
    _, height, width = image_shape
    return min(256, max(1, 2**20 // (height * width)))


def predict(
    folder: Path, images: Path, *, chunk: int = 1024, threads: int | None = None
) -> Iterator[pd.DataFrame]:
    """The most probable class of each image: frames of at most `chunk` rows, as the images are read.

    The columns are `file` (as `iterate_images` names it), `label` (a class name) and `probability` (float32,
    of that class). No more than a chunk is in memory.

    Args:
        folder: an exported ensemble; only `manifest.json` and `model.onnx` are used.
        images: what `convene.datasets.iterate_images` reads.
        chunk: images read at a time.
        threads: of ONNX Runtime; without it, one for each CPU that this process may use.

    Raises:
        InputError: at the call if the folder is not a complete export, is of a newer format, or its model is
            not the one that the manifest describes, or if there are no images; later for an unreadable image.
    """
    from convene.datasets import iterate_images

    manifest = read_manifest(folder)
    _check_model_file(folder, manifest)
    session = open_session(folder / ONNX_FILE, threads or _usable_cpus())
    _check_model_shape(folder, manifest, session)
    chunks = iterate_images(images, image_shape=manifest.image_shape, chunk=chunk)
    return _frames(session, manifest.classes, chunks)


def write_table(frames: Iterable[pd.DataFrame], destination: Path) -> int:
    """Writes frames of `predict` to a .csv or .parquet file as they come, and returns the number of rows.

    The file appears, or replaces an older one, when all rows are written; on any error it does not.

    Raises:
        InputError: if the suffix is another one, or the file's folder is missing or may not be written to.
        WorkError: if the disk is full or fails.
    """
    kind = destination.suffix.lower()
    if kind not in TABLES:
        raise InputError(f"{destination}: a table is written as {' or '.join(TABLES)}")
    if not destination.parent.is_dir():
        raise InputError(f"{destination}: the folder {destination.parent} does not exist")
    if destination.is_dir():
        raise InputError(f"{destination}: is a folder")
    draft = destination.with_name(f".{destination.name}-{secrets.token_hex(4)}")
    try:
        rows = _write_parquet(frames, draft) if kind == ".parquet" else _write_csv(frames, draft)
        draft.replace(destination)
    except PermissionError as error:
        raise InputError(f"{destination}: cannot be written: {error.strerror}") from error
    except OSError as error:
        raise WorkError(f"{destination}: could not be written: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return rows


def _check_model_file(folder: Path, manifest: Manifest) -> None:
    # A model of more than 1.5 GB has its weights in a second file, `model.onnx.data`.
    for name in dict.fromkeys([ONNX_FILE, *manifest.files]):
        if name.startswith(ONNX_FILE) and file_sha256(folder / name) != manifest.files.get(name):
            raise InputError(f"{folder / name}: not the file that {MANIFEST} describes: its SHA-256 differs")


def _check_model_shape(folder: Path, manifest: Manifest, session: "InferenceSession") -> None:
    _, *image_shape = session.get_inputs()[0].shape
    _, classes = session.get_outputs()[0].shape
    if (tuple(image_shape), classes) != (manifest.image_shape, len(manifest.classes)):
        raise InputError(
            f"{folder / MANIFEST}: {len(manifest.classes)} classes of images {manifest.image_shape}, but "
            f"{ONNX_FILE} has {classes} of images {tuple(image_shape)}"
        )


def _usable_cpus() -> int:
    """ONNX Runtime's own default counts the machine's, and would crowd a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _frames(
    session: "InferenceSession",
    classes: tuple[str, ...],
    chunks: Iterable[tuple[list[str], NDArray[np.uint8]]],
) -> Iterator[pd.DataFrame]:
    names = np.array(classes, dtype=object)
    for files, pixels in chunks:
        best, probability = _most_probable(session, pixels)
        yield pd.DataFrame({"file": files, "label": names[best], "probability": probability})


def _most_probable(
    session: "InferenceSession", pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The class and its probability, both [example]."""
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
