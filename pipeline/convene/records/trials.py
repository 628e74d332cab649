"""The trials of a sweep: as MLflow is to show them, and as a table."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convene.config.search_space import SearchSpace
from convene.records.open_sweep import OpenSweep
from convene.records.sweep_record import SweepRecord
from convene.search.study import StudiedTrial
from convene.search.trial_state import CANDIDATES, ENDED, TrialState
from convene.training import checkpoint
from convene.training.metrics import METRICS, Epoch

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrialView:
    """A trial as MLflow is to show it."""

    number: int
    settings: Mapping[str, Any]
    """Values of [network] and [training] by dotted name; those that do not apply are not there."""
    started: float
    """Seconds since 1970."""
    ended: float | None = None
    state: TrialState = TrialState.RUNNING
    reason: str | None = None
    epochs: tuple[Epoch, ...] = ()


@dataclass(frozen=True)
class Standing:
    """Where a trial stands once all have ended."""

    rank: int | None
    """From 1, among the complete trials."""
    complete: int
    """Complete trials in all."""
    weight: float | None
    """In the ensemble; None where it is no member."""


def views(sweep: OpenSweep) -> Iterator[TrialView]:
    """What MLflow is to show of each trial that has ended."""
    ended = [trial for trial in sweep.study.trials() if trial.ended is not None]
    records = checkpoint.load_records(sweep.record.files, (trial.number for trial in ended))
    for trial in ended:
        left = records.get(trial.number)
        yield TrialView(
            trial.number,
            sweep.space.settings(trial.parameters, trial.number),
            trial.started,
            trial.ended,
            trial.state,
            trial.reason,
            left.epochs if left else (),
        )


def table(sweep: OpenSweep, runs: Mapping[int, str]) -> "pd.DataFrame":
    """One row a trial, with its last epoch and configuration; best first by the objective, FAIL last.

    `runs` are the trials' MLflow runs, as far as there are. `pareto` is there where there are several
    objectives: whether no other trial beats it in all.
    """
    several = len(sweep.space.base.search.objectives) > 1
    found = table_of(sweep.record, sweep.space, sweep.study.trials())
    if several:
        found.insert(3, "pareto", found["trial"].isin(sweep.study.pareto()))
    found["mlflow_run_id"] = [runs.get(number) for number in found["trial"]]
    return found


def table_of(record: SweepRecord, space: SearchSpace, studied: Sequence[StudiedTrial]) -> "pd.DataFrame":
    """A sweep's trials as far as they have come; see `table`."""
    import pandas as pd

    rows = []
    records = checkpoint.load_records(record.files, (trial.number for trial in studied))
    for trial in studied:
        left = records.get(trial.number)
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.value,
                "reason": trial.reason,
                "epochs": len(left.epochs) if left else 0,
                "seconds": left.seconds if left else None,
                "parameters": left.parameters if left else None,
                "latency_ms": left.latency_ms if left else None,
                **(left.last.metrics() if left else dict.fromkeys(METRICS)),
                **space.settings(trial.parameters, trial.number),
            }
        )
    search = space.base.search
    found = pd.DataFrame(
        rows, columns=None if rows else ["trial", "state", "reason", search.primary_objective]
    )
    for name in found.columns.intersection(list(space.searched)):
        if found[name].hasnans and all(type(row.get(name, 0)) is int for row in rows):
            found[name] = found[name].astype("Int64")  # or whole numbers were floats beside what has none
    by, upwards = ["state", search.primary_objective, "trial"], [True, search.minimize, True]
    return found.sort_values(by, ascending=upwards, key=_by_outcome, ignore_index=True)


def images_trained(sweep: OpenSweep) -> int:
    """Training images that the trials saw: their epochs in whole batches."""
    train, seen = len(sweep.dataset.train), 0
    numbers = (trial.number for trial in sweep.study.trials())
    for left in checkpoint.load_records(sweep.record.files, numbers).values():
        batch = min(left.configuration.training.batch_size, train)
        seen += len(left.epochs) * (train - train % batch)
    return seen


def _by_outcome(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """States in the order of ENDED, other columns as they are."""
    return column.map([*ENDED, TrialState.RUNNING].index) if column.name == "state" else column


def candidates(
    trials: Sequence[StudiedTrial],
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


def states_and_reasons(trials: Sequence[StudiedTrial]) -> str:
    """Return an indented line for each trial with its state and reason, to end an error message."""
    return "".join(f"\n  trial {trial.number}: {trial.state} {trial.reason or ''}" for trial in trials)
