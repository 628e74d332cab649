"""An ensemble as one folder that runs without this project, proven against the networks it was made from."""

import copy as copying
import io
import itertools
import json
import logging
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, WorkError
from pipeline.predict import (
    FORMAT,
    INPUT,
    MANIFEST,
    ONNX_FILE,
    OUTPUTS,
    batch_size,
    file_sha256,
    open_session,
    read_manifest,
)

# PyTorch is imported where it is used: `copy` needs none of it.
if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

    from pipeline.ensemble import AveragedLogits

PT2_FILE = "model.pt2"
CARD_FILE = "README.md"
OPSET = 20
"""Of the ONNX file: the first with a GELU of its own. ONNX Runtime reads such files from 1.18 (May 2024)."""
RELATIVE_TOLERANCE = 1e-4
"""Of the largest logit. The runtimes add the same float32 products in other orders, which was seen to move
logits by up to 5e-7; a batch norm with an epsilon of 1e-3 for 1e-5 moves them by 1e-3 and more."""

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]  # logits and probabilities, [example, class]
Runtime = Callable[[NDArray[np.uint8]], Outputs]  # of pixels [example, channel, height, width]


@dataclass(frozen=True)
class Member:
    """One network of the ensemble, for the model card. Accuracies are shares, 0 to 1."""

    trial: int
    """Number of the trial that trained it."""
    weight: float
    """Of its logits in the mean; the weights sum to 1."""
    valid_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class ModelCard:
    """What people should know of the ensemble. Accuracies are shares, 0 to 1."""

    name: str
    """Of the sweep."""
    dataset: str
    """Name of the data set."""
    source: str
    """Where the data set came from."""
    fingerprint: str
    """SHA-256 over class names and splits."""
    test_sha256: str
    """Of the test images and labels."""
    test_reads: int
    """How often the test set was opened for this sweep, this time included."""
    valid_accuracy: float
    test_accuracy: float
    test_interval: tuple[float, float]
    """Low and high end of the 95 % interval of `test_accuracy`."""
    best_single_test_accuracy: float
    """Of the network that is best on the validation images."""
    members: tuple[Member, ...]
    versions: Mapping[str, str]
    """Of the packages that trained and exported it, by name."""


@dataclass(frozen=True)
class Agreement:
    """The proof that the files compute what the networks compute: largest absolute differences of logits."""

    examples: int
    """Images compared."""
    onnx: float
    """ONNX Runtime with the ONNX file, against the live networks."""
    pt2: float
    """PyTorch with the reloaded program, against the live networks."""
    tolerance: float
    """What was allowed."""


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
    if (found := _torch_runtime(live)(pixels[:1])[0].shape[1]) != len(classes):
        raise ValueError(f"{len(classes)} class names for {found} logits")
    with _draft(folder.parent, folder) as draft:
        _write_models(live, pixels.shape[1:], draft)
        agreement = _prove(live, pixels, draft)
        image_shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
        (draft / CARD_FILE).write_text(_readme(card, classes, image_shape, agreement), encoding="utf-8")
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
    return _in_format(live, torch.channels_last)  # three times as fast as contiguous weights


def _in_format(module: "nn.Module", memory_format: "torch.memory_format") -> "nn.Module":
    moved: nn.Module = module.to(memory_format=memory_format)  # type: ignore[call-overload]  # not in its stubs
    return moved


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
    plain = _in_format(copying.deepcopy(live), torch.contiguous_format)
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


def _prove(live: "nn.Module", pixels: NDArray[np.uint8], folder: Path) -> Agreement:
    """Raises WorkError where a file computes something else than the live networks."""
    import torch

    reloaded = _in_format(torch.export.load(folder / PT2_FILE).module(), torch.channels_last)
    session = open_session(folder / ONNX_FILE, torch.get_num_threads())
    expected = _outputs(_torch_runtime(live), pixels)
    # A network without finite logits has no tolerance, and then nothing agrees.
    tolerance = RELATIVE_TOLERANCE * float(np.abs(expected[0]).max())
    found = {
        "ONNX Runtime": _outputs(lambda batch: session.run(OUTPUTS, {INPUT: batch}), pixels),
        "PyTorch's exported program": _outputs(_torch_runtime(reloaded), pixels),
    }
    onnx, pt2 = (_difference(runtime, outputs, expected, tolerance) for runtime, outputs in found.items())
    return Agreement(len(pixels), onnx, pt2, tolerance)


def _torch_runtime(module: "nn.Module") -> Runtime:
    import torch

    def run(batch: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            logits, probabilities = module(torch.tensor(batch))
        return logits.numpy(), probabilities.numpy()

    return run


def _outputs(runtime: Runtime, pixels: NDArray[np.uint8]) -> Outputs:
    """Over all pixels in batches of 1, step - 1, step, step, … and what is left."""
    step = batch_size((pixels.shape[1], pixels.shape[2], pixels.shape[3]))
    cuts = sorted({0, 1, *range(step, len(pixels), step), len(pixels)})
    parts = [runtime(pixels[start:end]) for start, end in itertools.pairwise(cuts)]
    logits, probabilities = zip(*parts, strict=True)
    return np.concatenate(logits), np.concatenate(probabilities)


def _difference(runtime: str, found: Outputs, expected: Outputs, tolerance: float) -> float:
    """The largest of the logits; WorkError if that is too much, or if it changes a class."""
    differences = [float(np.abs(ours - theirs).max()) for ours, theirs in zip(expected, found, strict=True)]
    # A softmax moves by no more than its logits; near 0 and 1 it has roundings of its own.
    allowed = [tolerance, max(tolerance, 1e-6)]
    for name, difference, limit in zip(OUTPUTS, differences, allowed, strict=True):
        if not difference <= limit:  # also where it is not a number
            raise WorkError(
                f"{runtime} disagrees with the networks: {name} differ by up to {difference:.3g}, "
                f"where {limit:.3g} is allowed; nothing was exported"
            )
    # How far the class that the runtime names is behind, among the live logits: 0 where it is the same.
    named = np.take_along_axis(expected[0], found[0].argmax(axis=1)[:, None], axis=1)[:, 0]
    behind = float((expected[0].max(axis=1) - named).max())
    if behind > tolerance:
        raise WorkError(
            f"{runtime} disagrees with the networks: it names another class where logits are {behind:.3g} "
            f"apart, more than the {tolerance:.3g} that is allowed; nothing was exported"
        )
    return differences[0]


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


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _readme(
    card: ModelCard, classes: tuple[str, ...], image_shape: tuple[int, int, int], agreement: Agreement
) -> str:
    """The model card, in Markdown."""
    channels, height, width = image_shape
    shown = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    low, high = map(_percent, card.test_interval)
    best = _percent(card.best_single_test_accuracy)
    reads = "once, for this score" if card.test_reads == 1 else f"{card.test_reads} times for this sweep"
    members = "\n".join(
        f"| {member.trial} | {member.weight:.3f} | {_percent(member.valid_accuracy)} "
        f"| {_percent(member.test_accuracy)} |"
        for member in card.members
    )
    made_by = ", ".join(f"{package} {version}" for package, version in card.versions.items())
    return f"""# {card.name}

An ensemble of {len(card.members)} convolutional networks for images of {len(classes)} classes: {shown}.
It takes raw pixels (the normalisation is inside) and gives the weighted mean of the networks' logits.

- Images: uint8, 0 to 255, [example, {channels}, {height}, {width}] ({"grey" if channels == 1 else "RGB"})
- Answers: `logits` and `probabilities`, float32, [example, {len(classes)}], in the order of `{MANIFEST}`
- Trained on {card.dataset}, from {card.source}; fingerprint `{card.fingerprint}`

## Score

**{_percent(card.test_accuracy)}** of the test images are named right (95 % interval {low} to {high}).
The network that was best in validation names {best} right on its own.

The test set (SHA-256 `{card.test_sha256}`) was read {reads}.
Every read after the first is a chance to fit it. In validation the ensemble names
{_percent(card.valid_accuracy)} right; it was chosen by those images, so the test is what to trust.

| trial | weight | validation | test |
|---:|---:|---:|---:|
{members}

## Run it

With ONNX Runtime:

```python
import numpy, onnxruntime
session = onnxruntime.InferenceSession("{ONNX_FILE}")
images = numpy.zeros((1, {channels}, {height}, {width}), dtype="uint8")
logits, probabilities = session.run({json.dumps(OUTPUTS)}, {{"{INPUT}": images}})
print(probabilities.argmax(axis=1), probabilities.max(axis=1))
```

With PyTorch:

```python
import torch
model = torch.export.load("{PT2_FILE}").module().to(memory_format=torch.channels_last)
images = torch.zeros((1, {channels}, {height}, {width}), dtype=torch.uint8)
logits, probabilities = model(images)
print(probabilities.argmax(dim=1), probabilities.amax(dim=1))
```

## Limits

- The score holds for images like those of {card.dataset}, at the same size and with the same channels.
- Every image gets one of the classes above, also one that shows none of them.
- A probability is the model's own belief; how often it is right was not measured here.
- `{ONNX_FILE}` is the file that lasts. PyTorch may not read `{PT2_FILE}` in versions far from the one below.

## Proof

Both files were read back and run on {agreement.examples} test images beside the networks: the same classes,
and logits that differ by at most {agreement.onnx:.2g} (ONNX Runtime) and {agreement.pt2:.2g} (PyTorch),
where {agreement.tolerance:.2g} was allowed.

Made by {made_by}.
"""
