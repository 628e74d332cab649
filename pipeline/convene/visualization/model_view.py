"""Whose picture is drawn: a sweep's ensemble or one of its trials, with what they say of the images."""

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
class Subject:
    """The ensemble or a trial of a recorded sweep. A trial is an ensemble of one."""

    record: SweepRecord
    dataset: Dataset
    name: str
    """`ensemble` or `trial 17`."""
    part: str
    """Of the sweep, as its MLflow runs are called: `ensemble 1`, or a trial's number."""
    members: tuple[Member, ...]

    @property
    def stem(self) -> str:
        """How its files begin: `ensemble`, or `trial-017`."""
        return f"trial-{self.members[0].trial:03d}" if self.name.startswith("trial") else self.name

    def valid_probabilities(self) -> Probabilities:
        """Of the validation images, from the stored logits."""
        logits = {m.trial: checkpoint.load_logits(self.record.files, m.trial) for m in self.members}
        return diagnostics.probabilities(average(logits, self.members))

    def networks(self) -> AveragedLogits:
        """The members' networks, in evaluation mode. Raises InputError where one was not kept."""
        for member in self.members:
            if not checkpoint.has_network(self.record.files, member.trial):
                has = [n for n in _trials(self.record) if checkpoint.has_network(self.record.files, n)]
                raise InputError(
                    f"trial {member.trial}: its network was not kept (ensemble.keep); kept are {ranges(has)}"
                )
        return load_members(self.record, self.dataset, self.members)

    def network(self) -> ConvNet:
        """The first member's network; see `networks`."""
        first = self.networks().members[0]
        assert isinstance(first, ConvNet)
        return first

    def network_config(self) -> NetworkConfig:
        """The first member's architecture."""
        record = checkpoint.load_record(self.record.files, self.members[0].trial)
        assert record, "a member has logits, and its record was written after them"
        return record.configuration.network


def of_trial(record: SweepRecord, dataset: Dataset, number: int) -> Subject:
    """One trial. Raises InputError, naming those that there are, where it has left nothing."""
    if number not in (trials := _trials(record)):
        raise InputError(
            f"--trial {number}: sweep {record.name} has no finished epoch of it; "
            f"there are trials {ranges(trials) or 'none'}"
        )
    return Subject(record, dataset, f"trial {number}", str(number), (Member(number, 1.0),))


def of_ensemble(record: SweepRecord, dataset: Dataset) -> Subject:
    """The ensemble that was scored last, or what would be chosen of a sweep that has not come so far.

    Raises:
        InputError: if no trial has finished an epoch, with what went wrong in each.
    """
    if result := record.result:
        members = tuple(Member(member.trial, member.weight) for member in result.ensemble.members)
        return Subject(record, dataset, "ensemble", f"ensemble {result.test_reads}", members)
    logits = checkpoint.load_all_logits(record.files, _candidates(record))
    chosen = choose(logits, dataset.valid.labels, record.space.base.ensemble)
    return Subject(record, dataset, "ensemble", "sweep", chosen.members)


def best_single(record: SweepRecord, dataset: Dataset) -> Subject:
    """The first of the ensemble's members, which are in the order of their ranks."""
    return of_trial(record, dataset, of_ensemble(record, dataset).members[0].trial)


def _trials(record: SweepRecord) -> list[int]:
    """Numbers of the trials that have finished an epoch."""
    folders = record.files.names("trials")
    return [int(name) for name in folders if record.files.exists(f"trials/{name}/trial.json")]


def _candidates(record: SweepRecord) -> list[int]:
    """Return the trials that an ensemble could be chosen from so far, even running ones."""
    left, studied = set(_trials(record)), open_sweep.recorded_trials(record)
    found = trials.candidates(studied, left.intersection, (*CANDIDATES, TrialState.RUNNING))
    if not found:
        reasons = trials.states_and_reasons(studied)
        raise InputError(
            f"sweep {record.name}: no trial has finished an epoch, so there is no network to show{reasons}"
        )
    return found
