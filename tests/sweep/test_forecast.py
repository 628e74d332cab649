"""Time by arithmetic, on tables."""

from typing import Any

import pytest

from convene.config import search_space
from convene.config.schema import Configuration
from convene.config.validation import validate
from convene.sweep.forecast import epochs_with_halving, forecast


@pytest.mark.parametrize(
    ("rungs", "factor", "epochs", "expected"),
    [
        (set(), 2, 10, 10),
        ({4}, 2, 10, 4 + 6 / 2),
        ({7, 14}, 2, 20, 7 + 7 / 2 + 6 / 4),
        ({1, 3, 9}, 3, 27, 1 + 2 / 3 + 6 / 9 + 18 / 27),
        # Rungs at the last epoch or past it stop nothing: the trial is complete.
        ({7, 14}, 2, 7, 7),
        ({7, 14}, 2, 10, 7 + 3 / 2),
    ],
)
def test_halving_leaves_so_many_epochs(rungs: set[int], factor: int, epochs: int, expected: float) -> None:
    assert epochs_with_halving(rungs, factor, epochs) == pytest.approx(expected)


def trained(epochs: int) -> Configuration:
    return validate({"training": {"epochs": epochs}})


def made(search: dict[str, Any], *epochs: tuple[Configuration, float], concurrency: int = 2) -> Any:
    space = search_space.build({"training": {"epochs": 10}, "search": search, "ensemble": {"size": 5}})
    return forecast(space, epochs, start_seconds=10, concurrency=concurrency, train=1000, test=200)


def test_a_trial_takes_its_epochs() -> None:
    found = made({}, (trained(10), 1.0), (trained(20), 2.0))
    assert (found.trial, found.least, found.most) == (25, 10, 40)


# One rung, at 4 of 10 epochs, leaves 7; 0.2 s is a trial beyond its training. The start takes 10 s; the final
# stage 15 s, and 0.7 of the time in which a worker trains on 5 × 200 images, 1000 a second.
@pytest.mark.parametrize(
    ("search", "concurrency", "sweep", "budget", "trials"),
    [
        ({"trials": 8}, 2, (25.7 + 4 * 7.2, 25.7 + 4 * 10.2), None, None),
        ({"trials": 8, "scheduler": "none"}, 2, (25.7 + 4 * 10.2,) * 2, None, None),
        ({"trials": 9}, 4, (25.7 + 3 * 7.2, 25.7 + 3 * 10.2), None, None),
        ({"trials": 100, "time_budget": 125.7}, 2, (125.7, 125.7), 100, (18, 26)),
        ({"trials": 20, "time_budget": 125.7}, 2, (25.7 + 10 * 7.2, 125.7), 100, (18, 20)),
        ({"trials": 20, "time_budget": 20}, 2, (20, 20), 0, (0, 0)),
    ],
)
def test_a_sweep_takes_its_trials(
    search: dict[str, Any], concurrency: int, sweep: tuple[float, float], budget: Any, trials: Any
) -> None:
    found = made(search, (trained(10), 1.0), concurrency=concurrency)
    assert found.sweep == pytest.approx(sweep)
    assert found.budget == pytest.approx(budget)
    assert found.budget_trials == trials
