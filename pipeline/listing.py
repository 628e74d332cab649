"""What was recorded, read back: the sweeps under a storage root, and a sweep's leaderboard."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import record
from pipeline.record import Outcome, SweepRecord
from pipeline.storage import Storage

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ListedSweep:
    """A sweep in a list."""

    name: str
    state: str
    """`finished`, or `unfinished` where the final stage is still to come."""
    created: str
    dataset: str
    trials: int | None
    valid_accuracy: float | None
    test_accuracy: float | None
    test_reads: int


def list_sweeps(storage: str | Path) -> list[ListedSweep]:
    """The sweeps under a storage root, newest first."""
    store = Storage(str(storage))
    listed = []
    for name in record.names(store):
        kept = SweepRecord(store, name)
        about, result = kept.about, kept.result
        ensemble = result.ensemble if result else {}
        listed.append(
            ListedSweep(
                name,
                "finished" if result else "unfinished",
                about.created,
                about.dataset,
                result.trials if result else None,
                ensemble.get("valid_accuracy"),
                ensemble.get("test_accuracy"),
                len(kept.test_reads),
            )
        )
    return sorted(listed, key=lambda sweep: sweep.created, reverse=True)


def leaderboard(outcome: Outcome) -> tuple["pd.DataFrame", list[str]]:
    """The rows of `trials.parquet`, best first, and the names of the columns that were searched."""
    import pandas as pd

    kept = SweepRecord.open(Storage(outcome.storage), outcome.name)
    table = pd.read_parquet(kept.trials_table)
    return table, [name for name in kept.space.searched if name in table]
