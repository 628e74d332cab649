"""Export of an ensemble as a folder that runs without Convene, verified against the original networks."""

import copy as copying
import io
import json
import logging
import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convene.errors import InputError, WorkError
from convene.export.inference import FORMAT, INPUT, MANIFEST, ONNX_FILE, OUTPUTS, file_sha256, read_manifest
from convene.export.model_card import ModelCard, readme
from convene.export.verification import PT2_FILE, Agreement, to_memory_format, verify

# PyTorch is imported where it is used: `copy` does not need it.
if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from convene.ensemble.averaging import AveragedLogits

CARD_FILE = "README.md"
OPSET = 20
"""ONNX operator set: the first with a GELU operator. ONNX Runtime reads it from 1.18 (May 2024)."""


def write(
    ensemble: "AveragedLogits",
    *,
    classes: tuple[str, ...],
    pixels: NDArray[np.uint8],
    card: ModelCard,
    folder: Path,
) -> Agreement:
    """Write `model.onnx`, `model.pt2`, `manifest.json` and `README.md`, and verify both models.

    The models as reloaded from disk and the original networks run on all `pixels`, in batches of several
    sizes. Their logits must agree, and their classes must be the same. Only then does the folder appear, in
    place of any earlier export. The ensemble itself is not changed.

    Args:
        ensemble: on any device, in any mode and memory format; the export runs on the CPU in evaluation mode.
        classes: class names, in the order of the logits.
        pixels: at least one image, [example, channel, height, width].
        card: content of `README.md` and the manifest.
        folder: a new or empty folder, or an earlier export.

    Raises:
        ValueError: if there are no pixels, or the number of class names differs from the number of logits.
        InputError: if the folder contains anything but an export, or cannot be written to.
        WorkError: if a model cannot be exported or disagrees with the networks, or the disk is full.
    """
    if len(pixels) == 0:
        raise ValueError("pixels: verification needs at least one image")
    folder = folder.absolute()
    if folder.exists() and not _is_empty_folder(folder) and not _is_export(folder):
        raise InputError(f"{folder}: contains files that are not an export; choose another folder")
    original = _evaluation_copy(ensemble)
    if (logit_count := _logit_count(original, pixels.shape[1:])) != len(classes):
        raise ValueError(f"{len(classes)} class names for {logit_count} logits")
    with _staging_folder(folder.parent, folder) as staging:
        _write_models(original, pixels.shape[1:], staging)
        agreement = verify(original, pixels, staging)
        image_shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
        (staging / CARD_FILE).write_text(readme(card, classes, image_shape, agreement), encoding="utf-8")
        manifest = _manifest(card, classes, image_shape, agreement, staging)
        (staging / MANIFEST).write_text(manifest, encoding="utf-8")
        _replace(folder, staging)
    return agreement


def copy(source: Path, destination: Path) -> Path:
    """Copy an export, check each file against its SHA-256, and return the copy's absolute path.

    The destination holds either a complete and correct copy or nothing.

    Args:
        source: an exported folder.
        destination: an empty folder, or a new one, whose parents are created.

    Raises:
        InputError: if the source is not a complete export, or the destination is not empty or not writable.
        WorkError: if a file differs from the exported one, or the disk is full.
    """
    manifest = read_manifest(source)
    destination = destination.absolute()
    exists = destination.exists()
    if exists and not _is_empty_folder(destination):
        raise InputError(f"{destination}: exists and is not empty; choose a new or empty folder")
    # An empty folder may be a mount point, which cannot be replaced, in a parent that is not writable.
    with _staging_folder(destination if exists else destination.parent, destination) as staging:
        for name, sha256 in manifest.files.items():
            shutil.copyfile(source / name, staging / name)
            if file_sha256(staging / name) != sha256:
                raise WorkError(f"{source / name}: not the exported file: its SHA-256 differs")
        shutil.copyfile(source / MANIFEST, staging / MANIFEST)
        if exists:
            # The manifest comes last: a folder without it is not an export.
            for name in [*manifest.files, MANIFEST]:
                (staging / name).rename(destination / name)
        else:
            staging.rename(destination)
    return destination


def _is_empty_folder(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _is_export(folder: Path) -> bool:
    """Return whether a folder contains nothing but an export, which may be damaged."""
    known = {MANIFEST, CARD_FILE, PT2_FILE, ONNX_FILE, f"{ONNX_FILE}.data"}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return MANIFEST in names and names <= known


@contextmanager
def _staging_folder(parent: Path, target: Path) -> Iterator[Path]:
    """Yield a new hidden folder in `parent`, and remove it afterwards unless it was renamed."""
    staging = parent / f".{target.name}-{secrets.token_hex(4)}"
    try:
        staging.mkdir(parents=True)
        yield staging
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise InputError(f"cannot write {target}: {error.strerror} ({error.filename})") from error
    except OSError as error:
        raise WorkError(f"could not write {target}: {error}; partial files were removed") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(folder: Path, staging: Path) -> None:
    """Move the staging folder to its place. An older export is deleted only after that."""
    if not folder.exists():
        staging.rename(folder)
        return
    old = staging.with_name(f"{staging.name}-old")
    folder.rename(old)
    try:
        staging.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _evaluation_copy(ensemble: "AveragedLogits") -> "nn.Module":
    """Return a copy in evaluation mode on the CPU, so that the caller's ensemble is not changed."""
    import torch

    original = copying.deepcopy(ensemble).cpu().eval().requires_grad_(False)
    return to_memory_format(original, torch.channels_last)  # three times as fast as contiguous weights


def _logit_count(original: "nn.Module", image_shape: tuple[int, ...]) -> int:
    import torch

    with torch.inference_mode():
        logits, _ = original(torch.zeros((1, *image_shape), dtype=torch.uint8))
    return int(logits.shape[1])


def _write_models(original: "nn.Module", image_shape: tuple[int, ...], folder: Path) -> None:
    import onnx
    import torch

    with _quiet_exporters():
        program = _program(original, image_shape)
        _save_pt2(program, folder / PT2_FILE)
        try:
            _save_onnx(program, folder / ONNX_FILE)
        except (torch.onnx.OnnxExporterError, onnx.checker.ValidationError) as error:
            raise WorkError(f"the ensemble cannot be exported as ONNX: {error}") from error


def _program(original: "nn.Module", image_shape: tuple[int, ...]) -> "ExportedProgram":
    """Return the computation without Python code, for any batch size."""
    import torch

    # The archive warns about weights in other formats; a reader can convert them with `to`.
    contiguous = to_memory_format(copying.deepcopy(original), torch.contiguous_format)
    # Two examples, because a dimension of 1 would be treated as fixed.
    pixels = torch.zeros((2, *image_shape), dtype=torch.uint8)
    dynamic_shapes = {"pixels": {0: torch.export.Dim("batch")}}
    program = torch.export.export(contiguous, (pixels,), dynamic_shapes=dynamic_shapes)
    # Example inputs are the only part of the archive that would be pickled.
    program.example_inputs = None
    for node in program.graph.nodes:
        # Stack traces contain file names of this machine, and are of no use.
        node.meta.pop("stack_trace", None)
    return program


def _save_pt2(program: "ExportedProgram", path: Path) -> None:
    import torch

    # In memory first: PyTorch's file writer ends the process when the disk is full.
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def _save_onnx(program: "ExportedProgram", path: Path) -> None:
    import onnx
    import torch

    converted = torch.onnx.export(
        program,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes={"pixels": {0: "batch"}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert converted is not None  # only the old exporter returns None
    converted.save(path)
    onnx.checker.check_model(path, full_check=True)


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Suppress messages of the exporters that concern only their developers."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")

    def needed(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registry.addFilter(needed)
    try:
        with warnings.catch_warnings():
            # PyTorch 2.13 uses a function that it deprecates itself.
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        registry.removeFilter(needed)


def _manifest(
    card: ModelCard,
    classes: tuple[str, ...],
    image_shape: tuple[int, int, int],
    agreement: Agreement,
    folder: Path,
) -> str:
    """Return the manifest as JSON, with the SHA-256 of every file that the folder has so far."""
    content = {
        "format": FORMAT,
        "classes": classes,
        "image_shape": image_shape,
        "input": INPUT,
        "outputs": OUTPUTS,
        "files": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        "agreement": asdict(agreement),
        "card": asdict(card),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
