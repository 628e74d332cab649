"""The benchmark of searches on recorded curves: its table, its clock, and that all searches are equals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench import curves, handshake
from tests.bench.curves import EPOCHS, Curve, Table
from tests.bench.simulation import Search, Stock, simulate

TABLE = curves.read()
SECONDS = handshake.budget(TABLE)


def test_the_table_has_every_configuration_of_its_space() -> None:
    assert len(TABLE.curves) == len(list(curves.grid()))
    assert set(next(curves.grid())) == set(curves.space().distributions)
    for row, parameters in enumerate(curves.grid()):
        curve = TABLE.curve(parameters)
        assert curve.row == row
        assert len(curve.valid_loss) == len(curve.seconds) == EPOCHS
        assert np.isfinite(curve.valid_loss).all()
        assert min(curve.seconds) > 0
        curves.space().configuration(parameters, row)  # valid, or this raises


@pytest.mark.parametrize(
    ("rate", "nearest"), [(3.1e-4, 3e-4), (5.4e-4, 3e-4), (5.6e-4, 1e-3), (1.8e-2, 3e-2), (1e-1, 1e-1)]
)
def test_a_rate_between_two_recorded_ones_is_the_nearer_by_ratio(rate: float, nearest: float) -> None:
    parameters = next(curves.grid())
    drawn, recorded = ({**parameters, "training.learning_rate": value} for value in (rate, nearest))
    assert TABLE.curve(drawn) == TABLE.curve(recorded)


class Scripted:
    """Asks for rows of the table in order and stops a trial after the epochs that are told for it."""

    def __init__(self, epochs: list[int]) -> None:
        self.epochs, self.asked, self.reports = epochs, 0, list[tuple[int, int]]()

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        self.asked += 1
        return self.asked - 1, list(curves.grid())[self.asked - 1]

    def report(self, number: int, epoch: int, valid_loss: float) -> bool:
        self.reports.append((number, epoch))
        return epoch == self.epochs[number]


def test_workers_take_the_next_trial_when_theirs_ends_and_stop_when_time_is_over() -> None:
    # Epochs of 1, 2, 3 … seconds: row 0 takes 9 s, row 1 is stopped after 2 × 2 s, and so on.
    seconds = range(1, len(TABLE.curves) + 1)
    table = Table(tuple(Curve(row, (0.5,) * EPOCHS, (float(s),) * EPOCHS) for row, s in enumerate(seconds)))
    search = Scripted([9, 2, 1, 9, 9])
    sweep = simulate(search, table, workers=2, seconds=14)
    # Worker 0: row 0 to second 9, then row 4, whose first epoch ends in second 14.
    # Worker 1: row 1 to second 4, row 2 to second 7, row 3 to second 11 and on.
    assert search.reports[-3:] == [(0, 9), (3, 1), (4, 1)]
    assert [(trial.second, trial.curve.row) for trial in sweep.finished] == [(9.0, 0)]
    assert sweep.trials == 5
    assert sweep.worker_seconds == 9 + 4 + 3 + 4 + 5
    assert (sweep.best_at(8.9), sweep.best_at(9)) == (np.inf, 0.5)


def test_a_configuration_counts_once_among_the_best() -> None:
    class Stubborn(Scripted):
        def ask(self) -> tuple[int, Mapping[str, Any]]:
            return super().ask()[0], next(curves.grid())

    sweep = simulate(Stubborn([EPOCHS] * 1000), TABLE, workers=1, seconds=SECONDS)
    assert len(sweep.finished) > 1
    assert sweep.top(1) == TABLE.curves[0].valid_loss[-1]
    assert sweep.top(2) == np.inf


@pytest.mark.parametrize("name", handshake.SEARCHES)
def test_a_sweep_follows_from_its_seed_and_keeps_its_budget(name: str) -> None:
    def sweep(seed: int) -> Any:
        search = handshake.SEARCHES[name](seed)
        return simulate(search, TABLE, workers=handshake.WORKERS, seconds=SECONDS)

    first = sweep(0)
    assert sweep(0) == first
    assert sweep(1) != first
    # All but the epoch that each worker is in when time is over.
    longest = max(max(curve.seconds) for curve in TABLE.curves)
    assert 0 <= handshake.WORKERS * SECONDS - first.worker_seconds <= handshake.WORKERS * longest
    assert first.top(handshake.TOP) < np.inf


def test_searches_with_one_seed_begin_with_the_same_trials() -> None:
    def beginning(search: Search) -> list[int]:
        return [TABLE.curve(search.ask()[1]).row for _ in range(10)]

    first, *others = [beginning(make(3)) for make in handshake.SEARCHES.values()]
    assert len(set(first)) > 1
    assert all(other == first for other in others)


def test_ours_lies_between_the_best_possible_and_random_search() -> None:
    outcomes = {
        name: [
            simulate(handshake.SEARCHES[name](seed), TABLE, workers=handshake.WORKERS, seconds=SECONDS)
            for seed in range(8)
        ]
        for name in ("ours", "random search")
    }
    ours, random = (np.mean(handshake.tops(outcomes[name], handshake.TOP)) for name in outcomes)
    assert TABLE.best < ours < random


class Noted:
    """Another search, and the epochs that each of its trials was given."""

    def __init__(self, search: Search) -> None:
        self.search, self.epochs = search, list[tuple[int, int]]()

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        number, parameters = self.search.ask()
        self.epochs.append((TABLE.curve(parameters).row, 0))
        return number, parameters

    def report(self, number: int, epoch: int, valid_loss: float) -> bool:
        self.epochs[number] = self.epochs[number][0], epoch
        return self.search.report(number, epoch, valid_loss)


@pytest.mark.slow
def test_the_stand_in_for_tunes_loop_does_as_tune_does(tmp_path: Path) -> None:
    """Ray's own loop, one trial at a time, gives the trials and the epochs that the simulation gives."""
    import ray
    from ray import tune

    class Recorded(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.losses = curves.read().curve(config).valid_loss

        def step(self) -> dict[str, float]:
            return {"valid_loss": self.losses[self.iteration]}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

    trials = 25
    stock = handshake.SEARCHES["stock"](0)
    assert isinstance(stock, Stock)
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        analysis = tune.run(
            Recorded,
            search_alg=stock.search,
            scheduler=stock.scheduler,
            num_samples=trials,
            max_concurrent_trials=1,
            storage_path=str(tmp_path),
            reuse_actors=True,
            verbose=0,
        )
    finally:
        ray.shutdown()
    tuned = [
        (TABLE.curve(trial.config).row, trial.last_result["training_iteration"]) for trial in analysis.trials
    ]
    simulated = Noted(handshake.SEARCHES["stock"](0))
    simulate(simulated, TABLE, workers=1, seconds=TABLE.mean_seconds * trials)
    assert len({epoch for _, epoch in tuned}) > 1  # some were stopped
    assert tuned == simulated.epochs[:trials]
