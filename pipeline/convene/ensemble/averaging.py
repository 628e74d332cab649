"""An ensemble as one network: the weighted mean of its members' logits."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from convene.datasets import Dataset
from convene.ensemble.selection import Member
from convene.records.sweep_record import SweepRecord
from convene.training import checkpoint
from convene.training.network import ConvNet


@final
class AveragedLogits(nn.Module):
    """A network that maps raw pixels to the weighted mean of the members' logits, and its softmax.

    Args:
        members: networks for the same images and classes, which are not copied.
        weights: one per member, above 0. They are divided by their sum and stored as a buffer.

    Raises:
        ValueError: if there are no members, their number and that of the weights differ, or a weight is
            not positive and finite.
    """

    weights: Tensor  # [member], sums to 1

    def __init__(self, members: Sequence[ConvNet], weights: Sequence[float]) -> None:
        super().__init__()
        if not members or len(members) != len(weights):
            raise ValueError(
                f"{len(members)} members and {len(weights)} weights: each member needs one weight"
            )
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError(f"weights {list(weights)}: each must be positive and finite")
        self.members = nn.ModuleList(members)
        total = math.fsum(weights)
        self.register_buffer("weights", torch.tensor([weight / total for weight in weights]))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, [example, class].

        Args:
            pixels: uint8 [example, channel, height, width].
        """
        # Add term by term: ONNX Runtime reduces an empty batch to the wrong shape.
        terms = [weight * member(pixels) for weight, member in zip(self.weights, self.members, strict=True)]
        logits: Tensor = sum(terms[1:], start=terms[0])
        return logits, logits.softmax(dim=1)


def load_members(record: SweepRecord, dataset: Dataset, members: Sequence[Member]) -> AveragedLogits:
    """Return the members' networks as one module, in evaluation mode."""
    networks = []
    for member in members:
        trial = checkpoint.load_record(record.files, member.trial)
        assert trial, "a selected trial has a record"
        networks.append(
            checkpoint.load_network(record.files, trial, dataset.image_shape, len(dataset.classes))
        )
    return AveragedLogits(networks, [member.weight for member in members]).eval()
