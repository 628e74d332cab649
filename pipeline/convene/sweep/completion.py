"""The end that all sweeps share: train what is left, run the final stage, record its result."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from convene.records.open_sweep import OpenSweep

if TYPE_CHECKING:
    from convene.records.result import SweepResult
    from convene.tracking.tracker import Tracker

Search = Callable[["Tracker"], None]


def complete(
    sweep: OpenSweep,
    tracking: "AbstractContextManager[Tracker]",
    started: float,
    search: Search | None = None,
) -> "SweepResult":
    """Train what is left, run the final stage and record its result, all with one tracker."""
    with tracking as tracker:
        if search:
            search(tracker)
        # Only now PyTorch: the driver of a search needs none, and the workers start sooner.
        from convene.sweep import final_stage

        result = final_stage.finish(sweep, tracker, started)
    return final_stage.record_pending_writes(sweep, result, tracker)


@contextmanager
def tracker_of(sweep: OpenSweep, *, ends: bool = True) -> Iterator["Tracker"]:
    """Yield a tracker of a recorded sweep, after it was given all trials that have ended."""
    from convene.records import trials
    from convene.tracking.sweep_runs import SweepRuns
    from convene.tracking.tracker import Tracker, tracking_location

    location = tracking_location(sweep.record.storage)
    runs = SweepRuns(location, sweep.record, sweep.space, sweep.dataset, fresh=False)
    with Tracker(runs, end_on_error=ends) as tracker:
        for view in trials.views(sweep):
            tracker.log_trial(view)
        yield tracker
