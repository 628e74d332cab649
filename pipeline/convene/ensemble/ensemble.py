"""The ensemble: the weighted mean of its members' logits, and the one place that opens the test set."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from convene.config.schema import EnsembleConfig
from convene.datasets import Dataset, Images
from convene.ensemble import test_predictions
from convene.ensemble.selection import Selection, top_k
from convene.ensemble.test_predictions import Evidence
from convene.records.sweep_record import BestSingle, ScoredEnsemble, ScoredMember, SweepRecord
from convene.training import checkpoint
from convene.training.fit import logits as network_logits
from convene.training.metrics import Labels, accuracy, accuracy_interval, cross_entropy
from convene.training.network import ConvNet


@final
class AveragedLogits(nn.Module):
    """Raw pixels in; the weighted mean of the members' logits, and its softmax, out.

    Args:
        members: networks for the same images and classes. Kept as they are, not copied.
        weights: one for each member, above 0. Kept as a buffer, divided by their sum.

    Raises:
        ValueError: if there are no members, not one weight for each, or a weight is not above 0 and finite.
    """

    weights: Tensor  # [member], sums to 1

    def __init__(self, members: Sequence[ConvNet], weights: Sequence[float]) -> None:
        super().__init__()
        if not members or len(members) != len(weights):
            raise ValueError(f"{len(members)} members and {len(weights)} weights: one weight for each member")
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError(f"weights {list(weights)}: each must be above 0 and finite")
        self.members = nn.ModuleList(members)
        total = math.fsum(weights)
        self.register_buffer("weights", torch.tensor([weight / total for weight in weights]))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities, [example, class], of pixels uint8 [example, channel, height, width]."""
        # Term by term: ONNX Runtime reduces a batch of no examples to the wrong shape.
        terms = [weight * member(pixels) for weight, member in zip(self.weights, self.members, strict=True)]
        logits: Tensor = sum(terms[1:], start=terms[0])
        return logits, logits.softmax(dim=1)


def choose(record: SweepRecord, trials: Sequence[int], labels: Labels, config: EnsembleConfig) -> Selection:
    """The top trials by their stored validation logits."""
    logits = {trial: checkpoint.load_logits(record.files, trial) for trial in trials}
    return top_k(logits, labels, size=config.size, rank_by=config.rank_by)


def open_test(record: SweepRecord, dataset: Dataset, selection: Selection) -> Images:
    """The test images, for a final selection; the one place that opens them. Each opening is recorded."""
    record.add_test_read(dataset.test.sha256, [member.trial for member in selection.members])
    return dataset.test.open()


def load_members(record: SweepRecord, dataset: Dataset, selection: Selection) -> AveragedLogits:
    """The selected trials' networks as one module, in evaluation mode."""
    networks = []
    for member in selection.members:
        trial = checkpoint.load_record(record.files, member.trial)
        assert trial, "a selected trial has logits, and its record was written after them"
        networks.append(
            checkpoint.load_network(record.files, trial, dataset.image_shape, len(dataset.classes))
        )
    return AveragedLogits(networks, [member.weight for member in selection.members]).eval()


def examine(ensemble: AveragedLogits, selection: Selection, test: Images) -> Evidence:
    """Each member's answers to the test images."""
    pixels = torch.from_numpy(test.pixels)
    logits = {
        member.trial: network_logits(network, pixels)
        for member, network in zip(selection.members, ensemble.members, strict=True)
    }
    return test_predictions.collect(selection.members, logits, test)


def score(
    record: SweepRecord, selection: Selection, valid_labels: Labels, examined: Evidence
) -> ScoredEnsemble:
    """The test's scores of the ensemble, of each member and of the best single trial (the first member)."""
    logits, labels = examined.by_trial, examined.labels
    members = tuple(
        ScoredMember(
            member.trial,
            member.weight,
            accuracy(checkpoint.load_logits(record.files, member.trial), valid_labels),
            accuracy(logits[member.trial], labels),
        )
        for member in selection.members
    )
    averaged, first = examined.averaged, members[0]
    return ScoredEnsemble(
        members,
        selection.valid_loss,
        selection.valid_accuracy,
        cross_entropy(averaged, labels),
        accuracy(averaged, labels),
        accuracy_interval(averaged, labels),
        BestSingle(
            first.trial,
            first.valid_accuracy,
            first.test_accuracy,
            accuracy_interval(logits[first.trial], labels),
        ),
        len(record.test_reads),
    )
