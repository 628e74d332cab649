"""Verification that exported models compute what the original networks compute."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convene.errors import WorkError
from convene.export.inference import INPUT, ONNX_FILE, OUTPUTS, batch_size, open_session

# PyTorch is imported where it is used: copying an export does not need it.
if TYPE_CHECKING:
    import torch
    from torch import nn

PT2_FILE = "model.pt2"
RELATIVE_TOLERANCE = 1e-4
"""Tolerance, relative to the largest logit. Runtimes sum the same float32 products in different orders, which
moved logits by up to 5e-7 when measured. A real error is larger: a batch norm with epsilon 1e-3 instead of
1e-5 moves them by 1e-3 or more."""

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Logits and probabilities, both [example, class]."""
Runtime = Callable[[NDArray[np.uint8]], Outputs]
"""A function of pixels [example, channel, height, width]."""


@dataclass(frozen=True)
class Agreement:
    """The largest absolute differences between the logits of the files and of the original networks."""

    examples: int
    """Images compared."""
    onnx: float
    """Difference of the ONNX file in ONNX Runtime."""
    pt2: float
    """Difference of the reloaded program in PyTorch."""
    tolerance: float
    """Largest difference that was allowed."""


def verify(original: "nn.Module", pixels: NDArray[np.uint8], folder: Path) -> Agreement:
    """Compare both exported models with the original networks.

    Raises:
        WorkError: if a model disagrees with the networks.
    """
    import torch

    reloaded = to_memory_format(torch.export.load(folder / PT2_FILE).module(), torch.channels_last)
    session = open_session(folder / ONNX_FILE, torch.get_num_threads())
    expected = run_batches(_torch_runtime(original), pixels)
    # If a logit is not finite, neither is the tolerance, and no comparison succeeds.
    tolerance = RELATIVE_TOLERANCE * float(np.abs(expected[0]).max())
    found = {
        "ONNX Runtime": run_batches(lambda batch: session.run(OUTPUTS, {INPUT: batch}), pixels),
        "PyTorch's exported program": run_batches(_torch_runtime(reloaded), pixels),
    }
    onnx, pt2 = (compare(name, each, expected, tolerance) for name, each in found.items())
    return Agreement(len(pixels), onnx, pt2, tolerance)


def _torch_runtime(module: "nn.Module") -> Runtime:
    """Return a module as a function of arrays."""
    import torch

    def run(batch: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            logits, probabilities = module(torch.tensor(batch))
        return logits.numpy(), probabilities.numpy()

    return run


def run_batches(runtime: Runtime, pixels: NDArray[np.uint8]) -> Outputs:
    """Run all pixels in batches of 1, step - 1, step, step, … and the rest."""
    step = batch_size((pixels.shape[1], pixels.shape[2], pixels.shape[3]))
    cuts = sorted({0, 1, *range(step, len(pixels), step), len(pixels)})
    parts = [runtime(pixels[start:end]) for start, end in itertools.pairwise(cuts)]
    logits, probabilities = zip(*parts, strict=True)
    return np.concatenate(logits), np.concatenate(probabilities)


def compare(runtime: str, found: Outputs, expected: Outputs, tolerance: float) -> float:
    """Return the largest absolute difference of the logits.

    Raises:
        WorkError: if it exceeds the tolerance, or if a predicted class changes.
    """
    differences = [float(np.abs(ours - theirs).max()) for ours, theirs in zip(expected, found, strict=True)]
    # Probabilities differ by no more than logits, except for rounding near 0 and 1.
    allowed = [tolerance, max(tolerance, 1e-6)]
    for name, difference, limit in zip(OUTPUTS, differences, allowed, strict=True):
        if not difference <= limit:  # also true for NaN
            raise WorkError(
                f"{runtime} disagrees with the original networks: {name} differ by up to {difference:.3g}, "
                f"but only {limit:.3g} is allowed; nothing was exported"
            )
    # The margin, in the original logits, of the best class over the class that the runtime predicts.
    predicted = np.take_along_axis(expected[0], found[0].argmax(axis=1)[:, None], axis=1)[:, 0]
    margin = float((expected[0].max(axis=1) - predicted).max())
    if margin > tolerance:
        raise WorkError(
            f"{runtime} disagrees with the original networks: it predicts another class where their logits "
            f"are {margin:.3g} apart, but only {tolerance:.3g} is allowed; nothing was exported"
        )
    return differences[0]


def to_memory_format(module: "nn.Module", memory_format: "torch.memory_format") -> "nn.Module":
    """Convert the weights of a module in place, and return it."""
    moved: nn.Module = module.to(memory_format=memory_format)  # type: ignore[call-overload]  # not in its stubs
    return moved
