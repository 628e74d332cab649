"""What was recorded, read back: the sweeps under a storage root, and a sweep's leaderboard."""

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
"""What a list can be sorted by: names from A to Z, all else with the latest, largest or best first."""


@dataclass(frozen=True)
class ListedSweep:
    """A sweep in a list."""

    name: str
    state: str
    """`running`, `finished`, or `unfinished` where trials or the final stage are still to come."""
    created: str
    dataset: str
    trials: int | None
    valid_accuracy: float | None
    test_accuracy: float | None
    test_reads: int


@dataclass(frozen=True)
class SweepView:
    """A sweep as far as it has come."""

    name: str
    state: str
    """As in a list."""
    asked: int
    """Trials that were asked for."""
    states: dict[str, int]
    """Trials in each state."""
    searched: list[str]
    """Columns of the table that were searched."""
    result: SweepResult | None
    """Of the last final stage, if there was one."""
    test_reads: int
    """How often the test set was opened for it."""
    table: "pd.DataFrame"
    """As `trials.parquet`."""
    resume: str
    """The command that finishes it."""


def list_sweeps(storage: str | Path, pattern: str = "*", sort: str = "created") -> list[ListedSweep]:
    """The sweeps under a storage root whose name matches (`mnist*`), by one of `SORTS`."""
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
    # What has no score yet stands last.
    missing = "" if sort == "created" else -1
    return sorted(listed, key=lambda sweep: getattr(sweep, sort) or missing, reverse=True)


def view(name: str, storage: str | Path) -> SweepView:
    """A recorded sweep, also one that is at work or was cut off. Raises InputError where there is none."""
    record = SweepRecord.open(Storage(str(storage)), name)
    space, state, result = record.space, _state(record), record.result
    if state == "finished":
        table = record.trials_table
    else:
        table = trials.table_of(record, space, open_sweep.recorded_trials(record))
    states = {str(state): int(count) for state, count in table["state"].value_counts(sort=False).items()}
    searched = [name for name in space.searched if name in table]
    asked, reads, resume = space.base.search.trials, len(record.test_reads), record.command("resume")
    return SweepView(name, state, asked, states, searched, result, reads, table, resume)


def _state(record: SweepRecord) -> str:
    if record.is_busy:
        return "running"
    return "finished" if (result := record.result) and result.ended else "unfinished"


def leaderboard(result: SweepResult) -> tuple["pd.DataFrame", list[str]]:
    """The rows of `trials.parquet`, best first, and the names of the columns that were searched."""
    record = SweepRecord.open(Storage(result.storage), result.name)
    table = record.trials_table
    return table, [name for name in record.space.searched if name in table]
