"""What people should know of an exported ensemble, and the page that tells it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from convene.export.inference import INPUT, MANIFEST, ONNX_FILE, OUTPUTS
from convene.export.verification import PT2_FILE, Agreement
from convene.formatting import interval, percent
from convene.records.result import ScoredMember


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
    members: tuple[ScoredMember, ...]
    versions: Mapping[str, str]
    """Of the packages that trained it, by name."""


def readme(
    card: ModelCard, classes: tuple[str, ...], image_shape: tuple[int, int, int], agreement: Agreement
) -> str:
    """The model card, in Markdown."""
    channels, height, width = image_shape
    shown = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    best = percent(card.best_single_test_accuracy)
    reads = "once, for this score" if card.test_reads == 1 else f"{card.test_reads} times for this sweep"
    members = "\n".join(
        f"| {member.trial} | {member.weight:.3f} | {percent(member.valid_accuracy)} "
        f"| {percent(member.test_accuracy)} |"
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

**{percent(card.test_accuracy)}** of the test images are named right
(95 % interval {interval(card.test_interval)}).
The network that was best in validation names {best} right on its own.

The test set (SHA-256 `{card.test_sha256}`) was read {reads}.
Every read after the first is a chance to fit it. In validation the ensemble names
{percent(card.valid_accuracy)} right; it was chosen by those images, so the test is what to trust.

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
