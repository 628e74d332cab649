"""The model card of an exported ensemble."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from convene.export.inference import INPUT, MANIFEST, ONNX_FILE, OUTPUTS
from convene.export.verification import PT2_FILE, Agreement
from convene.formatting import interval, percent, plural
from convene.records.result import ScoredMember


@dataclass(frozen=True)
class ModelCard:
    """The content of a model card. Accuracies are fractions, 0 to 1."""

    name: str
    """Name of the sweep."""
    dataset: str
    """Name of the data set."""
    source: str
    """Origin of the data set."""
    fingerprint: str
    """SHA-256 over class names and splits."""
    test_sha256: str
    """SHA-256 of the test images and labels."""
    test_reads: int
    """Openings of the test set for this sweep, including this one."""
    valid_accuracy: float
    test_accuracy: float
    test_interval: tuple[float, float]
    """95 % interval of `test_accuracy`: low and high."""
    best_single_test_accuracy: float
    """Test accuracy of the best network on the validation images."""
    members: tuple[ScoredMember, ...]
    versions: Mapping[str, str]
    """Versions of the packages that trained the networks, by name."""


def readme(
    card: ModelCard, classes: tuple[str, ...], image_shape: tuple[int, int, int], agreement: Agreement
) -> str:
    """Return the model card in Markdown."""
    channels, height, width = image_shape
    names = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    reads = "once" if card.test_reads == 1 else f"{card.test_reads} times in this sweep"
    members = "\n".join(
        f"| {member.trial} | {member.weight:.3f} | {percent(member.valid_accuracy)} "
        f"| {percent(member.test_accuracy)} |"
        for member in card.members
    )
    versions = ", ".join(f"{package} {version}" for package, version in card.versions.items())
    return f"""# {card.name}

An ensemble of {plural(len(card.members), "convolutional network")} that classifies images into {len(classes)}
classes: {names}.

- Input `{INPUT}`: raw pixels, uint8, 0 to 255, [example, {channels}, {height}, {width}]
  ({"greyscale" if channels == 1 else "RGB"}). The model normalises them itself.
- Outputs `{OUTPUTS[0]}` (the weighted mean of the networks' logits) and `{OUTPUTS[1]}`: float32,
  [example, {len(classes)}], with the classes in the order of `{MANIFEST}`.
- Training data: {card.dataset}, from {card.source}; fingerprint `{card.fingerprint}`.

## Accuracy

- Test accuracy: **{percent(card.test_accuracy)}** (95 % interval {interval(card.test_interval)}).
- Validation accuracy: {percent(card.valid_accuracy)}. The members were selected on the validation images, so
  the test accuracy is the figure to trust.
- Test accuracy of the best single network: {percent(card.best_single_test_accuracy)}.

The test set (SHA-256 `{card.test_sha256}`) was read {reads}.
Scores after the first read may be optimistic.

| trial | weight | validation accuracy | test accuracy |
|---:|---:|---:|---:|
{members}

## Usage

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

## Limitations

- The accuracy applies to images like those of {card.dataset}, with the same size and channels.
- Every image gets one of the classes above, even if it shows none of them.
- The probabilities are the model's own estimates. Their calibration was not measured here.
- `{ONNX_FILE}` is the long-term format. Versions of PyTorch far from the one below may not read `{PT2_FILE}`.

## Verification

Both files were reloaded and compared with the original networks on
{plural(agreement.examples, "test image")}. The predicted classes are the same. The logits differ by at most
{agreement.onnx:.2g} (ONNX Runtime) and {agreement.pt2:.2g} (PyTorch); {agreement.tolerance:.2g} was allowed.

Made with {versions}.
"""
