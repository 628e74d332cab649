"""A recorded trial run again outside Ray, to compare the curves."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from convene.datasets import Dataset
from convene.errors import InputError
from convene.records.sweep_record import SweepRecord
from convene.training import checkpoint
from convene.training.fit import Fit
from convene.training.metrics import Epoch


@dataclass(frozen=True)
class ReplayedEpoch:
    """An epoch as recorded and as replayed."""

    recorded: Epoch
    replayed: Epoch

    @property
    def same(self) -> bool:
        """Return whether losses and accuracy are equal to the last bit; the speed may differ."""
        return all(
            getattr(self.recorded, name) == getattr(self.replayed, name)
            for name in ("epoch", "train_loss", "valid_loss", "valid_accuracy")
        )


def replay(record: SweepRecord, dataset: Dataset, trial: int) -> Iterator[ReplayedEpoch]:
    """Train the trial again for the recorded number of epochs, with the same number of threads.

    Raises:
        InputError: if the sweep has no record of the trial.
    """
    recorded = checkpoint.load_record(record.files, trial)
    if recorded is None:
        raise InputError(f"trial {trial}: sweep {record.name} has no record of it")
    search = recorded.configuration.search
    torch.set_num_threads(max(1, int(search.cpus_per_trial)))
    device = "cuda" if search.gpus_per_trial else "cpu"
    fit = Fit(recorded.configuration, dataset.training_data, device)
    return (ReplayedEpoch(epoch, fit.run_epoch()) for epoch in recorded.epochs)
