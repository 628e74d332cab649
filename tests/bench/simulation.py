"""Sweeps in simulated time, with losses and seconds from a table of recorded curves.

Only Tune's loop is simulated, so that a sweep takes a second instead of minutes. The searches are real: Ray's
`OptunaSearch` and `ASHAScheduler`, called in the same order as by Tune's controller, and Convene's `Study`,
called as by the observer of a sweep. Both suggest a trial when a worker is free, as in Tune with
`max_concurrent_trials`. The time for a suggestion is not counted.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol, final

from ray.tune.schedulers import TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from convene.config.schema import flatten
from convene.config.search_space import SearchSpace
from convene.search.study import Study
from convene.search.trial_state import TrialState
from tests.bench.curves import EPOCHS, Curve, Table

_CONTROLLER: Any = None  # ASHA does not read Tune's controller


class Search(Protocol):
    """An algorithm that suggests trials and stops them."""

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """Return a new trial's number and its parameters by dotted name."""
        ...

    def report(self, number: int, epoch: int, valid_loss: float) -> bool:
        """Record an epoch, and return whether the trial ends with it."""
        ...


@final
class Stock:
    """Ray's search algorithm and scheduler."""

    def __init__(self, search: OptunaSearch, scheduler: TrialScheduler) -> None:
        self.search, self.scheduler = search, scheduler
        self._trials: list[Any] = []

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        number = len(self._trials)
        parameters = self.search.suggest(str(number))
        assert parameters is not None
        self._trials.append(SimpleNamespace(trial_id=str(number)))  # the only attribute that ASHA reads
        self.scheduler.on_trial_add(_CONTROLLER, self._trials[number])
        return number, parameters

    def report(self, number: int, epoch: int, valid_loss: float) -> bool:
        trial = self._trials[number]
        result = {"training_iteration": epoch, "valid_loss": valid_loss}
        decision = self.scheduler.on_trial_result(_CONTROLLER, trial, result)
        if decision == TrialScheduler.CONTINUE and epoch < EPOCHS:
            self.search.on_trial_result(trial.trial_id, result)
            return False
        self.scheduler.on_trial_complete(_CONTROLLER, trial, result)
        self.search.on_trial_complete(trial.trial_id, result=result)
        return True


@final
class Ours:
    """Convene's study. With `stock_states`, stopped trials are COMPLETE, as in Ray's search."""

    def __init__(self, space: SearchSpace, *, stock_states: bool = False) -> None:
        self._study = Study(space, shape_check=lambda _: None)
        self._stock_states = stock_states

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        number, configuration = self._study.ask()
        return number, flatten(configuration, "network", "training")

    def report(self, number: int, epoch: int, valid_loss: float) -> bool:
        self._study.report(number, epoch, valid_loss)
        if epoch == EPOCHS:
            self._study.tell(number, TrialState.COMPLETE, [valid_loss])
        elif not self._study.should_prune(number, epoch):
            return False
        elif self._stock_states:
            self._study.tell(number, TrialState.COMPLETE, [valid_loss])
        else:
            self._study.tell(number, TrialState.PRUNED)
        return True


@dataclass(frozen=True)
class Finished:
    """A complete trial: the second at which it ended, and its curve."""

    second: float
    curve: Curve

    @property
    def valid_loss(self) -> float:
        return self.curve.valid_loss[-1]


@dataclass(frozen=True)
class Sweep:
    """The result of a simulated sweep."""

    trials: int
    """Started trials."""
    finished: tuple[Finished, ...]
    """Complete trials, in order of time."""
    worker_seconds: float
    """Seconds of complete epochs. The rest of `workers` × seconds went into interrupted epochs."""

    def top(self, count: int) -> float:
        """Return the mean final loss of the best `count` complete configurations, without duplicates."""
        losses = sorted({trial.curve.row: trial.valid_loss for trial in self.finished}.values())[:count]
        return sum(losses) / count if len(losses) == count else float("inf")

    def best_at(self, second: float) -> float:
        """Return the lowest final loss known at that time; infinite before the first complete trial."""
        return min(
            (trial.valid_loss for trial in self.finished if trial.second <= second), default=float("inf")
        )


def simulate(search: Search, table: Table, *, workers: int, seconds: float) -> Sweep:
    """Simulate a sweep of the table's space. Each worker trains one trial at a time until time is up."""
    running: dict[int, tuple[int, Curve, int]] = {}  # number, curve and epochs done, by worker
    events = [(0.0, worker) for worker in range(workers)]
    finished, trials, trained = [], 0, 0.0
    while events[0][0] <= seconds:
        now, worker = heapq.heappop(events)
        if worker in running:
            number, curve, epoch = running.pop(worker)
            epoch += 1
            trained += curve.seconds[epoch - 1]
            ended = search.report(number, epoch, curve.valid_loss[epoch - 1])
            if epoch == EPOCHS:
                finished.append(Finished(now, curve))
            if not ended:
                running[worker] = number, curve, epoch
        if worker not in running:
            number, parameters = search.ask()
            running[worker] = number, table.curve(parameters), 0
            trials += 1
        _, curve, epoch = running[worker]
        heapq.heappush(events, (now + curve.seconds[epoch], worker))
    return Sweep(trials, tuple(finished), trained)
