"""Recorded sweeps: the list under a storage root, the view of one, and its leaderboard."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from convene.records import open_sweep, sweep_record, trials
from convene.records.result import SweepResult
from convene.records.sweep_record import SweepRecord
from convene.storage import Storage

if TYPE_CHECKING:
    import pandas as pd


SORTS = ("created", "name", "trials", "valid_accuracy", "test_accuracy")
"""Orders of a list: names from A to Z, everything else with the latest, largest or best first."""


@dataclass(frozen=True)
class ListedSweep:
    """A sweep in a list."""

    name: str
    state: str
    """`running`, `finished`, or `unfinished` if trials or the final stage are left."""
    created: str
    dataset: str
    trials: int | None
    valid_accuracy: float | None
    test_accuracy: float | None
    test_reads: int


@dataclass(frozen=True)
class SweepView:
    """A sweep so far."""

    name: str
    state: str
    """As in `ListedSweep`."""
    asked: int
    """Trials asked for."""
    states: dict[str, int]
    """Trials in each state."""
    searched: list[str]
    """Searched columns of the table."""
    result: SweepResult | None
    """The result of the last final stage; None before the first."""
    test_reads: int
    """Openings of the test set for this sweep."""
    table: "pd.DataFrame"
    """One row for each trial, as in `trials.parquet`."""
    resume: str
    """The command that finishes the sweep."""


def list_sweeps(storage: str | Path, pattern: str = "*", sort: str = "created") -> list[ListedSweep]:
    """Return the sweeps under a storage root whose name matches (`mnist*`), in one of the orders `SORTS`."""
    store = Storage(str(storage))
    listed = []
    for name in sweep_record.names(store):
        if not fnmatchcase(name, pattern):
            continue
        record = SweepRecord(store, name)
        about, result = record.about, record.result
        ensemble = result.ensemble if result else None
        listed.append(
            ListedSweep(
                name,
                _state(record),
                about.created,
                about.dataset,
                result.trials if result else None,
                ensemble.valid_accuracy if ensemble else None,
                ensemble.test_accuracy if ensemble else None,
                len(record.test_reads),
            )
        )
    if sort == "name":
        return sorted(listed, key=lambda sweep: sweep.name)
    # Sweeps without a score come last.
    missing = "" if sort == "created" else -1
    return sorted(listed, key=lambda sweep: getattr(sweep, sort) or missing, reverse=True)


def view(name: str, storage: str | Path) -> SweepView:
    """Return a recorded sweep, also one that is running or was cut off. Raise InputError if there is none."""
    record = SweepRecord.open(Storage(str(storage)), name)
    space, state, result = record.space, _state(record), record.result
    if state == "finished":
        table = record.trials_table
    else:
        table = trials.progress_table(record, space, open_sweep.recorded_trials(record))
    states = {str(state): int(count) for state, count in table["state"].value_counts(sort=False).items()}
    searched = [name for name in space.searched if name in table]
    asked, reads, resume = space.base.search.trials, len(record.test_reads), record.command("resume")
    return SweepView(name, state, asked, states, searched, result, reads, table, resume)


def _state(record: SweepRecord) -> str:
    if record.is_busy:
        return "running"
    return "finished" if (result := record.result) and result.ended else "unfinished"


def leaderboard(result: SweepResult) -> tuple["pd.DataFrame", list[str]]:
    """Return the rows of `trials.parquet`, best first, and the names of the searched columns."""
    record = SweepRecord.open(Storage(result.storage), result.name)
    table = record.trials_table
    return table, [name for name in record.space.searched if name in table]
