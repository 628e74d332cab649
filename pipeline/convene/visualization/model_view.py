"""The model that a picture shows: a sweep's ensemble or one of its trials."""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from convene.config.schema import NetworkConfig
from convene.datasets import Dataset
from convene.ensemble import diagnostics
from convene.ensemble.averaging import AveragedLogits, load_members
from convene.ensemble.selection import Member, average, choose
from convene.errors import InputError
from convene.formatting import ranges
from convene.records import open_sweep, trials
from convene.records.sweep_record import SweepRecord
from convene.search.trial_state import CANDIDATES, TrialState
from convene.training import checkpoint
from convene.training.network import ConvNet

Probabilities = NDArray[np.floating]  # [example, class]


@final
@dataclass(frozen=True)
class ModelView:
    """The ensemble or a trial of a recorded sweep. A trial is treated as an ensemble of one."""

    record: SweepRecord
    dataset: Dataset
    name: str
    """`ensemble` or `trial 17`."""
    part: str
    """The part of the sweep whose MLflow run the pictures belong to: `ensemble 1`, or a trial's number."""
    members: tuple[Member, ...]

    @property
    def stem(self) -> str:
        """Return the beginning of its file names: `ensemble`, or `trial-017`."""
        return f"trial-{self.members[0].trial:03d}" if self.name.startswith("trial") else self.name

    def valid_probabilities(self) -> Probabilities:
        """Return the probabilities of the validation images, from the recorded logits."""
        logits = checkpoint.load_all_logits(self.record.files, [member.trial for member in self.members])
        return diagnostics.probabilities(average(logits, self.members))

    def networks(self) -> AveragedLogits:
        """Load the members' networks in evaluation mode.

        Raises:
            InputError: if a network was not kept.
        """
        for member in self.members:
            if not checkpoint.has_network(self.record.files, member.trial):
                kept = [n for n in _trials(self.record) if checkpoint.has_network(self.record.files, n)]
                raise InputError(
                    f"trial {member.trial}: its network was not kept (see ensemble.keep); "
                    f"trials with a network: {ranges(kept) or 'none'}"
                )
        return load_members(self.record, self.dataset, self.members)

    def network(self) -> ConvNet:
        """Load the first member's network; see `networks`."""
        first = self.networks().members[0]
        assert isinstance(first, ConvNet)
        return first

    def network_config(self) -> NetworkConfig:
        """Return the first member's architecture."""
        record = checkpoint.load_record(self.record.files, self.members[0].trial)
        assert record, "a member has a record"
        return record.configuration.network


def load_trial(record: SweepRecord, dataset: Dataset, number: int) -> ModelView:
    """Return a view of one trial.

    Raises:
        InputError: if the trial does not exist or has not finished an epoch, with the trials that have.
    """
    if number not in (trials := _trials(record)):
        raise InputError(
            f"--trial {number}: sweep {record.name} has no such trial with a finished epoch; "
            f"trials with one: {ranges(trials) or 'none'}"
        )
    return ModelView(record, dataset, f"trial {number}", str(number), (Member(number, 1.0),))


def load_ensemble(record: SweepRecord, dataset: Dataset) -> ModelView:
    """Return a view of the latest ensemble or, before there is one, of the members that would be selected.

    Raises:
        InputError: if no trial has finished an epoch, with the trials' states and reasons.
    """
    if result := record.result:
        members = tuple(Member(member.trial, member.weight) for member in result.ensemble.members)
        return ModelView(record, dataset, "ensemble", f"ensemble {result.test_reads}", members)
    logits = checkpoint.load_all_logits(record.files, _candidates(record))
    selection = choose(logits, dataset.valid.labels, record.space.base.ensemble)
    return ModelView(record, dataset, "ensemble", "sweep", selection.members)


def load_best_single(record: SweepRecord, dataset: Dataset) -> ModelView:
    """Return a view of the ensemble's best member."""
    return load_trial(record, dataset, load_ensemble(record, dataset).members[0].trial)


def _trials(record: SweepRecord) -> list[int]:
    """Return the numbers of the trials that have finished an epoch."""
    folders = record.files.names("trials")
    return [int(name) for name in folders if record.files.exists(f"trials/{name}/trial.json")]


def _candidates(record: SweepRecord) -> list[int]:
    """Return the trials that an ensemble could be selected from, including running ones."""
    usable, studied = set(_trials(record)), open_sweep.recorded_trials(record)
    found = trials.candidates(studied, usable.intersection, (*CANDIDATES, TrialState.RUNNING))
    if not found:
        reasons = trials.states_and_reasons(studied)
        raise InputError(
            f"sweep {record.name}: no trial has finished an epoch, so there is no network to show{reasons}"
        )
    return found
