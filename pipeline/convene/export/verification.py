"""The proof that exported files compute what the networks compute."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convene.errors import WorkError
from convene.export.inference import INPUT, ONNX_FILE, OUTPUTS, batch_size, open_session

# PyTorch is imported where it is used: copying an export needs none of it.
if TYPE_CHECKING:
    import torch
    from torch import nn

PT2_FILE = "model.pt2"
RELATIVE_TOLERANCE = 1e-4
"""Of the largest logit. The runtimes add the same float32 products in other orders, which was seen to move
logits by up to 5e-7; a batch norm with an epsilon of 1e-3 for 1e-5 moves them by 1e-3 and more."""

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]  # logits and probabilities, [example, class]
Runtime = Callable[[NDArray[np.uint8]], Outputs]  # of pixels [example, channel, height, width]


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


def verify(live: "nn.Module", pixels: NDArray[np.uint8], folder: Path) -> Agreement:
    """Raises WorkError where a file computes something else than the live networks."""
    import torch

    reloaded = in_format(torch.export.load(folder / PT2_FILE).module(), torch.channels_last)
    session = open_session(folder / ONNX_FILE, torch.get_num_threads())
    expected = outputs(_torch_runtime(live), pixels)
    # A network without finite logits has no tolerance, and then nothing agrees.
    tolerance = RELATIVE_TOLERANCE * float(np.abs(expected[0]).max())
    found = {
        "ONNX Runtime": outputs(lambda batch: session.run(OUTPUTS, {INPUT: batch}), pixels),
        "PyTorch's exported program": outputs(_torch_runtime(reloaded), pixels),
    }
    onnx, pt2 = (largest_difference(runtime, each, expected, tolerance) for runtime, each in found.items())
    return Agreement(len(pixels), onnx, pt2, tolerance)


def _torch_runtime(module: "nn.Module") -> Runtime:
    import torch

    def run(batch: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            logits, probabilities = module(torch.tensor(batch))
        return logits.numpy(), probabilities.numpy()

    return run


def outputs(runtime: Runtime, pixels: NDArray[np.uint8]) -> Outputs:
    """Over all pixels in batches of 1, step - 1, step, step, … and what is left."""
    step = batch_size((pixels.shape[1], pixels.shape[2], pixels.shape[3]))
    cuts = sorted({0, 1, *range(step, len(pixels), step), len(pixels)})
    parts = [runtime(pixels[start:end]) for start, end in itertools.pairwise(cuts)]
    logits, probabilities = zip(*parts, strict=True)
    return np.concatenate(logits), np.concatenate(probabilities)


def largest_difference(runtime: str, found: Outputs, expected: Outputs, tolerance: float) -> float:
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


def in_format(module: "nn.Module", memory_format: "torch.memory_format") -> "nn.Module":
    """The module with its weights laid out so, in place."""
    moved: nn.Module = module.to(memory_format=memory_format)  # type: ignore[call-overload]  # not in its stubs
    return moved
