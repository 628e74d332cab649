import pytest

from convene.config.schema import Configuration, SearchConfig
from convene.search import time_budget
from convene.search.time_budget import TimeBudget, TrialPace


class Clock:
    """Stands for `time`: seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_budget, "time", clock)
    return clock


def of(seconds: float | None, clock: Clock, test_images: int = 0) -> TimeBudget:
    return TimeBudget(clock.now, Configuration(search=SearchConfig(time_budget=seconds)), test_images)


def result(epoch: int, epochs: int, seconds: float, images_per_second: float = 1000.0) -> TrialPace:
    return TrialPace(epoch, epochs, seconds, images_per_second)


def test_without_a_budget_nothing_stops(clock: Clock) -> None:
    unlimited = of(None, clock)
    clock.now += 1e9
    assert unlimited.may_start()
    assert not unlimited.is_over()
    assert not unlimited.is_late(result(1, 10, 1e9))


def test_training_ends_before_the_budget_does(clock: Clock) -> None:
    limited = of(100, clock)
    clock.now += 80
    assert not limited.is_over()
    clock.now += 19
    assert limited.is_over()  # one second is not enough for the final stage


def test_more_to_score_leaves_less_time_to_train(clock: Clock) -> None:
    small, large = of(100, clock, test_images=0), of(100, clock, test_images=10_000)
    for each in (small, large):
        each.note(result(1, 10, 1, images_per_second=1000))
    clock.now += 60
    assert not small.is_over()
    assert large.is_over()


def test_until_one_trial_is_complete_all_go_on_to_the_end(clock: Clock) -> None:
    limited = of(100, clock)
    clock.now += 50
    assert not limited.is_late(result(1, 10, 50))  # would need 450 more seconds, and has 35


def test_once_one_is_complete_a_trial_that_cannot_finish_is_stopped(clock: Clock) -> None:
    limited = of(100, clock)
    clock.now += 20
    limited.note(result(10, 10, 20))
    clock.now += 10
    assert not limited.is_late(result(5, 10, 10))
    assert limited.is_late(result(1, 10, 10))


def test_none_starts_that_could_not_finish(clock: Clock) -> None:
    limited = of(100, clock)
    limited.note(result(10, 10, 20))
    clock.now += 60
    assert limited.may_start()
    clock.now += 10
    assert not limited.may_start()  # 15 seconds are left, and the quickest took 20
