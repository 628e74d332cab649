"""The trials of a sweep as recorded: for MLflow, as a table, and as candidates for the ensemble."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convene.config.search_space import SearchSpace
from convene.records.open_sweep import OpenSweep
from convene.records.sweep_record import SweepRecord
from convene.search.study import StudyTrial
from convene.search.trial_state import CANDIDATES, ENDED, TrialState
from convene.storage import Storage
from convene.training import checkpoint
from convene.training.checkpoint import TrialRecord
from convene.training.metrics import METRICS, Epoch

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RecordedTrial:
    """A trial in the study, with the record that its worker left after its last epoch."""

    studied: StudyTrial
    record: TrialRecord | None
    """None for a trial that did not finish an epoch."""

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.studied.number

    @property
    def state(self) -> TrialState:
        """The trial's state."""
        return self.studied.state

    @property
    def searched(self) -> dict[str, Any]:
        """The values of the searched parameters, by dotted name."""
        return self.studied.parameters


@dataclass(frozen=True)
class TrialView:
    """A trial as MLflow shows it."""

    number: int
    settings: Mapping[str, Any]
    """Values of [network] and [training] that apply, by dotted name."""
    started: float
    """Seconds since the epoch."""
    ended: float | None = None
    state: TrialState = TrialState.RUNNING
    reason: str | None = None
    epochs: tuple[Epoch, ...] = ()


@dataclass(frozen=True)
class Standing:
    """A trial's rank and weight once all trials have ended."""

    rank: int | None
    """From 1, among the complete trials."""
    complete: int
    """Number of complete trials."""
    weight: float | None
    """Weight in the ensemble; None if it is not a member."""


def load_trials(files: Storage, studied: Iterable[StudyTrial]) -> list[RecordedTrial]:
    """Pair trials of the study with the records that their workers left in the sweep's folder."""
    studied = list(studied)
    records = checkpoint.load_records(files, (trial.number for trial in studied))
    return [RecordedTrial(trial, records.get(trial.number)) for trial in studied]


def views(sweep: OpenSweep) -> Iterator[TrialView]:
    """Yield MLflow's view of each trial that has ended."""
    ended = (trial for trial in sweep.study.trials() if trial.ended is not None)
    for trial in load_trials(sweep.record.files, ended):
        yield TrialView(
            trial.number,
            sweep.space.settings(trial.studied.parameters, trial.number),
            trial.studied.started,
            trial.studied.ended,
            trial.state,
            trial.studied.reason,
            trial.record.epochs if trial.record else (),
        )


def table(sweep: OpenSweep, runs: Mapping[int, str]) -> "pd.DataFrame":
    """Return `progress_table` with the trials' MLflow runs and, for several objectives, the Pareto front."""
    several = len(sweep.space.base.search.objectives) > 1
    found = progress_table(sweep.record, sweep.space, sweep.study.trials())
    if several:
        found.insert(3, "pareto", found["trial"].isin(sweep.study.pareto()))
    found["mlflow_run_id"] = [runs.get(number) for number in found["trial"]]
    return found


def progress_table(record: SweepRecord, space: SearchSpace, studied: Sequence[StudyTrial]) -> "pd.DataFrame":
    """Return one row for each trial so far: its last epoch and its settings. The best first, FAIL last."""
    import pandas as pd

    rows = [_row(trial, space) for trial in load_trials(record.files, studied)]
    search = space.base.search
    columns = None if rows else ["trial", "state", "reason", search.primary_objective]
    found = pd.DataFrame(rows, columns=columns)
    for name in found.columns.intersection(list(space.searched)):
        if found[name].hasnans and all(type(row.get(name, 0)) is int for row in rows):
            found[name] = found[name].astype("Int64")  # integers would become floats beside a missing value
    order, ascending = ["state", search.primary_objective, "trial"], [True, search.minimize, True]
    return found.sort_values(order, ascending=ascending, key=_state_order, ignore_index=True)


def _row(trial: RecordedTrial, space: SearchSpace) -> dict[str, Any]:
    record = trial.record
    return {
        "trial": trial.number,
        "state": trial.state.value,
        "reason": trial.studied.reason,
        "epochs": len(record.epochs) if record else 0,
        "seconds": record.seconds if record else None,
        "parameters": record.parameters if record else None,
        "latency_ms": record.latency_ms if record else None,
        **(record.last.metrics() if record else dict.fromkeys(METRICS)),
        **space.settings(trial.studied.parameters, trial.number),
    }


def images_trained(sweep: OpenSweep) -> int:
    """Return the number of training images that the trials saw, over all their epochs in whole batches."""
    train, seen = len(sweep.dataset.train), 0
    for trial in load_trials(sweep.record.files, sweep.study.trials()):
        if record := trial.record:
            batch = min(record.configuration.training.batch_size, train)
            seen += len(record.epochs) * (train - train % batch)
    return seen


def _state_order(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Order states as ENDED does; other columns stay as they are."""
    return column.map([*ENDED, TrialState.RUNNING].index) if column.name == "state" else column


def candidates(
    trials: Sequence[StudyTrial],
    usable: Callable[[Iterable[int]], Collection[int]],
    states: Sequence[TrialState] = CANDIDATES,
) -> list[int]:
    """Return the trials that an ensemble can be chosen from: the usable ones of the first state that has any.

    Args:
        trials: the sweep's own trials.
        usable: returns those of the given trials that have left a network.
        states: the order of preference.
    """
    for state in states:
        if found := usable(trial.number for trial in trials if trial.state is state):
            return sorted(found)
    return []


def states_and_reasons(trials: Sequence[StudyTrial]) -> str:
    """Return an indented line for each trial with its state and reason, to end an error message."""
    return "".join(f"\n  trial {trial.number}: {trial.state} {trial.reason or ''}" for trial in trials)
