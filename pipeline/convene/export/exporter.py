"""An ensemble as one folder that runs without this project, proven against the networks it was made from."""

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
from convene.export.verification import PT2_FILE, Agreement, in_format, verify

# PyTorch is imported where it is used: `copy` needs none of it.
if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from convene.ensemble.averaging import AveragedLogits

CARD_FILE = "README.md"
OPSET = 20
"""Of the ONNX file: the first with a GELU of its own. ONNX Runtime reads such files from 1.18 (May 2024)."""


def write(
    ensemble: "AveragedLogits",
    *,
    classes: tuple[str, ...],
    pixels: NDArray[np.uint8],
    card: ModelCard,
    folder: Path,
) -> Agreement:
    """Writes `model.onnx`, `model.pt2`, `manifest.json` and `README.md`, and proves both models.

    The files as reloaded from disk and the live networks run over all `pixels`, in batches of several sizes;
    their logits must agree and their classes be the same. The folder appears when that is done, in place
    of an older export; before that nothing is seen of it. The ensemble itself is left as it is.

    Args:
        ensemble: on any device, in any mode and memory format; exported on the CPU for evaluation.
        classes: names, in the order of the logits.
        pixels: at least one image, [example, channel, height, width].
        card: what `README.md` and the manifest tell about it.
        folder: new, empty or an earlier export.

    Raises:
        ValueError: if there are no pixels, or not one class name for each logit.
        InputError: if the folder holds anything but an export, or may not be written to.
        WorkError: if a model cannot be exported or disagrees with the networks, or the disk is full.
    """
    if len(pixels) == 0:
        raise ValueError("pixels: the proof needs at least one image")
    folder = folder.absolute()
    if folder.exists() and not _is_free(folder) and not _is_export(folder):
        raise InputError(f"{folder}: holds something that is not an export; name another folder")
    live = _evaluated(ensemble)
    if (found := _class_count(live, pixels.shape[1:])) != len(classes):
        raise ValueError(f"{len(classes)} class names for {found} logits")
    with _draft(folder.parent, folder) as draft:
        _write_models(live, pixels.shape[1:], draft)
        agreement = verify(live, pixels, draft)
        image_shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
        (draft / CARD_FILE).write_text(readme(card, classes, image_shape, agreement), encoding="utf-8")
        manifest = _manifest(card, classes, image_shape, agreement, draft)
        (draft / MANIFEST).write_text(manifest, encoding="utf-8")
        _replace(folder, draft)
    return agreement


def copy(source: Path, destination: Path) -> Path:
    """Copies an exported folder, each file checked against its SHA-256, and returns the copy's absolute path.

    Nothing is left at the destination unless all of it is there and right.

    Args:
        source: an exported folder.
        destination: a new folder, whose parents are made, or an empty one.

    Raises:
        InputError: if the source is not a complete export, or the destination is not empty or not writable.
        WorkError: if a file is not the one that was exported, or the disk is full.
    """
    manifest = read_manifest(source)
    destination = destination.absolute()
    empty = destination.exists()
    if empty and not _is_free(destination):
        raise InputError(f"{destination}: exists and is not empty; name a new or an empty folder")
    # An empty folder may be a mount, which cannot be replaced, in a parent that may not be written to.
    with _draft(destination if empty else destination.parent, destination) as draft:
        for name, sha256 in manifest.files.items():
            shutil.copyfile(source / name, draft / name)
            if file_sha256(draft / name) != sha256:
                raise WorkError(f"{source / name}: not the file that was exported: its SHA-256 differs")
        shutil.copyfile(source / MANIFEST, draft / MANIFEST)
        if empty:
            # The manifest comes last: a folder without it is not an export.
            for name in [*manifest.files, MANIFEST]:
                (draft / name).rename(destination / name)
        else:
            draft.rename(destination)
    return destination


def _is_free(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _is_export(folder: Path) -> bool:
    """Whether nothing would be lost but an export, be it damaged."""
    known = {MANIFEST, CARD_FILE, PT2_FILE, ONNX_FILE, f"{ONNX_FILE}.data"}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return MANIFEST in names and names <= known


@contextmanager
def _draft(home: Path, target: Path) -> Iterator[Path]:
    """A new hidden folder in `home`, removed at the end unless it was renamed."""
    draft = home / f".{target.name}-{secrets.token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        yield draft
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise InputError(f"cannot write {target}: {error.strerror} ({error.filename})") from error
    except OSError as error:
        raise WorkError(f"could not write {target}: {error}; nothing of it is left") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _replace(folder: Path, draft: Path) -> None:
    """Puts the draft in the folder's place; the old one goes only then."""
    if not folder.exists():
        draft.rename(folder)
        return
    old = draft.with_name(f"{draft.name}-old")
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _evaluated(ensemble: "AveragedLogits") -> "nn.Module":
    """A copy to evaluate on the CPU: the caller goes on with its own mode, device and memory format."""
    import torch

    live = copying.deepcopy(ensemble).cpu().eval().requires_grad_(False)
    return in_format(live, torch.channels_last)  # three times as fast as contiguous weights


def _class_count(live: "nn.Module", image_shape: tuple[int, ...]) -> int:
    import torch

    with torch.inference_mode():
        logits, _ = live(torch.zeros((1, *image_shape), dtype=torch.uint8))
    return int(logits.shape[1])


def _write_models(live: "nn.Module", image_shape: tuple[int, ...], folder: Path) -> None:
    import onnx
    import torch

    with _quiet_exporters():
        program = _program(live, image_shape)
        _save_pt2(program, folder / PT2_FILE)
        try:
            _save_onnx(program, folder / ONNX_FILE)
        except (torch.onnx.OnnxExporterError, onnx.checker.ValidationError) as error:
            raise WorkError(f"the ensemble cannot be written as ONNX: {error}") from error


def _program(live: "nn.Module", image_shape: tuple[int, ...]) -> "ExportedProgram":
    """The computation without Python code, for any number of images."""
    import torch

    # The archive warns about weights in any other format; a reader changes it back with `to`.
    plain = in_format(copying.deepcopy(live), torch.contiguous_format)
    # Two examples: a dimension of 1 would be taken as fixed.
    pixels = torch.zeros((2, *image_shape), dtype=torch.uint8)
    program = torch.export.export(plain, (pixels,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}})
    # Example inputs are the one thing that the archive would pickle.
    program.example_inputs = None
    for node in program.graph.nodes:
        # Traces tell file names of the machine that exported, to nobody's use.
        node.meta.pop("stack_trace", None)
    return program


def _save_pt2(program: "ExportedProgram", path: Path) -> None:
    import torch

    # In memory first: PyTorch's own writer ends the process when the disk is full.
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
    assert converted is not None  # None is for the old exporter
    converted.save(path)
    onnx.checker.check_model(path, full_check=True)


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Without what the exporters say to their own developers, and with everything else."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")

    def needed(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registry.addFilter(needed)
    try:
        with warnings.catch_warnings():
            # PyTorch 2.13 copies tree specifications by a way that it deprecates itself.
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
