"""How many trials a time budget has room for, by arithmetic on the first epochs."""

from types import SimpleNamespace
from typing import Any

import pytest

from convene.config import search_space
from convene.search import time_budget
from convene.search.study import Study
from convene.search.time_budget import TimeBudget, TrialPace
from convene.sweep.budget_room import BudgetRoom, Room, describe


def room(seconds: float, epoch_seconds: float, epochs: int = 10, train: int = 40_000, **search: Any) -> Room:
    values = {"trials": 40, "scheduler": "none", "time_budget": seconds + 30, **search}
    space = search_space.build({"training": {"epochs": epochs}, "search": values, "ensemble": {"size": 5}})
    return Room(space, train, seconds, 2, epoch_seconds, epochs)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            room(1000, 1.0),
            "time budget: room for all 40 trials; a trial takes about 0:10, and 16:40 are left to train",
        ),
        (
            room(102, 1.0),
            "time budget: room for 20 of 40 trials; a trial takes about 0:10, and 1:42 are left to train",
        ),
        # A rung at 4 of 10 epochs leaves 7.
        (
            room(102, 1.0, scheduler="asha"),
            "time budget: room for 20 to 28 of 40 trials; "
            "a trial takes about 0:10, and 1:42 are left to train",
        ),
        # CIFAR-10: one trial takes 9 of 15 minutes. For 10 trials, 2 at a time, one may take 170.2 s.
        (
            room(851, 54.0),
            "time budget: room for 2 of 40 trials; a trial takes about 9:00, and 14:11 are left to train; "
            "room for 10 trials: training.epochs = 3, or data.train_limit = 12000, "
            'or search.time_budget = "46m"',
        ),
        (
            room(300, 54.0),
            "time budget: room for none of 40 trials; a trial takes about 9:00, and 5:00 are left to train; "
            "room for 10 trials: training.epochs = 1, or data.train_limit = 4400, "
            'or search.time_budget = "46m"',
        ),
        # Neither an epoch nor enough images fit.
        (
            room(10, 54.0, train=1000),
            "time budget: room for none of 40 trials; a trial takes about 9:00, and 0:10 are left to train; "
            'room for 10 trials: search.time_budget = "46m"',
        ),
        (
            room(0, 54.0),
            "time budget: room for none of 40 trials; a trial takes about 9:00, and 0:00 are left to train; "
            'room for 10 trials: search.time_budget = "46m"',
        ),
    ],
)
def test_the_room_is_described_with_proposals_where_it_is_small(found: Room, expected: str) -> None:
    assert describe(found, found.space.base.search.trials) == expected


@pytest.mark.parametrize("seconds", [60, 300, 851])
@pytest.mark.parametrize("epochs", [5, 10, 30])
def test_the_proposed_epochs_and_images_fit(seconds: float, epochs: int) -> None:
    found = room(seconds, 20.0, epochs)
    proposed = dict(
        part.removeprefix("or ").split(" = ") for part in found.proposals().split(": ")[1].split(", ")
    )
    if fewer := proposed.get("training.epochs"):
        assert Room(found.space, found.train, seconds, 2, 20.0, int(fewer)).fewest >= 10
        assert Room(found.space, found.train, seconds, 2, 20.0, int(fewer) + 1).fewest < 10
    if images := proposed.get("data.train_limit"):
        share = int(images) / found.train
        assert Room(found.space, found.train, seconds, 2, 20.0 * share, epochs).fewest >= 10
    minutes = int(proposed["search.time_budget"].strip('"m'))
    more = 60 * minutes - (found.space.base.search.time_budget or 0)
    assert Room(found.space, found.train, seconds + more, 2, 20.0, epochs).fewest >= 10


class Announced:
    """A sweep whose first epochs are reported by the test."""

    def __init__(
        self, concurrency: int, monkeypatch: pytest.MonkeyPatch, budget: float | None = 130.0
    ) -> None:
        tables = {"training": {"epochs": 10}, "search": {"trials": 40, "scheduler": "none"}}
        space = search_space.build(tables)
        if budget is not None:
            space = search_space.override(space, {"search.time_budget": budget})
        monkeypatch.setattr(time_budget, "time", SimpleNamespace(monotonic=lambda: 0.0))
        self.messages: list[str] = []
        sweep: Any = SimpleNamespace(
            space=space, dataset=SimpleNamespace(train=range(1000)), study=Study(space, lambda each: None)
        )
        limit = TimeBudget(0.0, space.base, test_images=0)
        self.room = BudgetRoom(sweep, limit, concurrency, self.messages.append)

    def epoch(self, number: int, seconds: float, epochs: int = 10) -> None:
        self.room.note(TrialPace(number, epochs, number * seconds, 1000.0))


def test_the_room_is_announced_once_when_each_worker_has_trained_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = Announced(2, monkeypatch)
    sweep.epoch(1, 2.0)
    sweep.epoch(2, 2.0)  # the other worker is slower
    assert sweep.messages == []
    for number in range(1, 10):
        sweep.epoch(number, 4.0)
    # 115 s are left after the final stage, and 4 s of them were trained already; a trial takes 30.2 s.
    [message] = sweep.messages
    assert message.startswith(
        "time budget: room for 6 of 40 trials; a trial takes about 0:30, and 1:59 are left to train"
    )


def test_a_complete_trial_is_enough_to_announce_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Announced(64, monkeypatch)  # workers that have not joined yet
    for number in range(1, 11):
        sweep.epoch(number, 1.0)
    assert len(sweep.messages) == 1


def test_a_resumed_trial_may_be_the_first_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Announced(2, monkeypatch)
    sweep.epoch(10, 1.0)
    assert len(sweep.messages) == 1


def test_without_a_budget_nothing_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Announced(1, monkeypatch, budget=None)
    sweep.epoch(1, 1.0)
    assert sweep.messages == []
