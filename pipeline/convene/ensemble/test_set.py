"""Opening of the test set, which happens only here, and the scores on it."""

import torch

from convene.datasets import Dataset, Images
from convene.ensemble import test_predictions
from convene.ensemble.averaging import AveragedLogits
from convene.ensemble.selection import Selection
from convene.ensemble.test_predictions import Predictions
from convene.records.result import BestSingle, ScoredEnsemble, ScoredMember, Scores
from convene.records.sweep_record import SweepRecord
from convene.training.fit import logits as network_logits
from convene.training.metrics import accuracy, accuracy_interval, cross_entropy


def open_test(record: SweepRecord, dataset: Dataset, selection: Selection) -> Images:
    """Record an opening of the test set, then open it for a final selection. Nothing else opens it."""
    record.add_test_read(dataset.test.sha256, [member.trial for member in selection.members])
    return dataset.test.open()


def predict(ensemble: AveragedLogits, selection: Selection, test: Images) -> Predictions:
    """Return each member's test logits, and the test images worth saving."""
    pixels = torch.from_numpy(test.pixels)
    logits = {
        member.trial: network_logits(network, pixels)
        for member, network in zip(selection.members, ensemble.members, strict=True)
    }
    return test_predictions.collect(selection.members, logits, test)


def score(record: SweepRecord, selection: Selection, predictions: Predictions) -> Scores:
    """Return the test scores of the ensemble, its members and the best single trial, the first member."""
    logits, labels = predictions.logits_by_trial, predictions.labels
    members = tuple(
        ScoredMember(
            member.trial,
            member.weight,
            selection.valid_accuracies[member.trial],
            accuracy(logits[member.trial], labels),
        )
        for member in selection.members
    )
    averaged, first = predictions.ensemble_logits, members[0]
    return Scores(
        ScoredEnsemble(
            members,
            selection.valid_loss,
            selection.valid_accuracy,
            cross_entropy(averaged, labels),
            accuracy(averaged, labels),
            accuracy_interval(averaged, labels),
        ),
        BestSingle(
            first.trial,
            first.valid_accuracy,
            first.test_accuracy,
            accuracy_interval(logits[first.trial], labels),
        ),
        len(record.test_reads),
    )
