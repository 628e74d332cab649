"""The live view of a sweep, drawn at the widths of real terminals, and its lines without one."""

import io
import itertools
from dataclasses import replace

import pytest
from rich.console import Console

from convene.cli.live_view import Bars, Lines, LiveView
from convene.sweep.progress import Progress, RunningTrial


class Clock:
    """A clock that moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


RUNNING = (RunningTrial(8, 12, 20, 0.14321), RunningTrial(10, 0, 20, None))
PROGRESS = Progress(
    trials=16,
    objective="valid_loss",
    end=None,
    running_trials=RUNNING,
    complete=5,
    pruned=2,
    failed=1,
    best=(7, 0.0312),
    event="trial 9 FAIL: the loss is nan",
)
# The longest numbers that a sweep is likely to have.
LARGE = replace(
    PROGRESS,
    trials=10_000,
    objective="valid_accuracy",
    running_trials=(RunningTrial(9998, 1000, 1000, 0.98765), RunningTrial(9999, 999, 1000, None)),
    complete=8000,
    pruned=1900,
    failed=98,
    best=(9876, 0.98765),
    event="trial 9997 FAIL: " + "a long reason " * 20,
)


def console(width: int, height: int = 24) -> Console:
    return Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)


def drawn(bars: Bars, width: int, height: int = 24) -> list[str]:
    """Return the lines that the bars fill on a terminal."""
    out = console(width, height)
    with out.capture() as captured:
        out.print(bars.get_renderable())
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("progress", [PROGRESS, LARGE])
def test_everything_is_visible_at_the_usual_widths(progress: Progress, width: int, clock: Clock) -> None:
    bars = Bars(console(width), clock)
    bars.show(replace(progress, complete=progress.complete - 4))
    clock.now += 60
    bars.show(progress)
    lines = drawn(bars, width)
    assert all(len(line) <= width for line in lines)
    sweep, first, second, best, event = lines
    assert f"{progress.done}/{progress.trials} trials" in sweep
    assert "about" in sweep and "left" in sweep
    for line, trial in zip((first, second), progress.running_trials, strict=True):
        assert line.startswith(f"trial {trial.number} ")
        assert f"{trial.epoch}/{trial.epochs} epochs" in line
    assert f"{progress.objective} {progress.running_trials[0].value:.4f}" in first
    number, value = progress.best or (0, 0)
    expected = f"best {progress.objective} {value:.4f} (trial {number}), {progress.pruned} pruned"
    assert best.startswith(f"{expected}, {progress.failed} failed")
    assert event.startswith(progress.event[:60])


def test_a_bar_is_as_long_as_the_part_that_is_done(clock: Clock) -> None:
    bars = Bars(console(80), clock)
    bars.show(PROGRESS)
    sweep, half, none = drawn(bars, 80)[:3]
    assert (sweep.count("━"), none.count("━")) == (12, 0)
    assert 14 <= half.count("━") <= 15


def test_a_trial_that_ended_loses_its_line(clock: Clock) -> None:
    bars = Bars(console(80), clock)
    bars.show(PROGRESS)
    bars.show(replace(PROGRESS, complete=6, running_trials=RUNNING[1:]))
    text = "\n".join(drawn(bars, 80))
    assert "trial 10 " in text and "trial 8 " not in text


def test_many_running_trials_leave_the_best_value_on_the_screen(clock: Clock) -> None:
    running = tuple(RunningTrial(number, 1, 20, 0.5) for number in range(64))
    bars = Bars(console(80, height=12), clock)
    bars.show(replace(PROGRESS, running_trials=running))
    lines = drawn(bars, 80, height=12)
    assert len(lines) < 12
    assert "and 58 more running trials" in lines
    assert any("best valid_loss 0.0312" in line for line in lines)


def test_before_the_first_trial_and_after_the_last_the_bars_say_so(clock: Clock) -> None:
    bars = Bars(console(80), clock)
    clock.now += 7
    assert drawn(bars, 80) == ["starting … 0:07"]
    bars.show(replace(PROGRESS, running_trials=(), search_ended=True))
    assert drawn(bars, 80)[-1] == "choosing, scoring and exporting the ensemble"


@pytest.fixture
def lines(clock: Clock) -> Lines:
    return Lines(Console(file=io.StringIO(), width=80), clock)


def printed(lines: Lines) -> list[str]:
    """Return the lines printed since the last call."""
    file = lines._console.file
    assert isinstance(file, io.StringIO)
    found = file.getvalue().splitlines()
    file.seek(0)
    file.truncate()
    return found


def test_without_a_terminal_a_line_is_printed_every_30_seconds(lines: Lines, clock: Clock) -> None:
    """Nine minutes of silence, as long epochs had them, look like a sweep that hangs."""
    lines.show(PROGRESS)
    intervals = []
    for _ in range(540):
        clock.now += 1
        lines.beat()
        if printed(lines):
            intervals.append(clock.now)
    assert len(intervals) == 18
    assert intervals[0] == 1030
    assert {later - earlier for earlier, later in itertools.pairwise(intervals)} == {30}


def test_the_line_has_the_running_trials_the_best_value_and_the_time_left(lines: Lines, clock: Clock) -> None:
    clock.now += 20
    lines.beat()
    assert printed(lines) == []
    clock.now += 10
    lines.beat()
    assert printed(lines) == ["after 0:30: starting"]
    lines.show(replace(PROGRESS, complete=4))
    clock.now += 29
    lines.show(PROGRESS)
    counts = "8/16 done, 2 running, 2 pruned, 1 failed, best valid_loss 0.0312 (trial 7), about 3:35 left"
    assert printed(lines) == [f"trial 9 FAIL: the loss is nan  [{counts}]"]
    clock.now += 30
    lines.beat()
    running = "trial 8 epoch 12/20 valid_loss 0.1432; trial 10 epoch 0/20"
    assert printed(lines) == [f"after 1:29: {counts.replace('3:35', '7:17')}; {running}"]
    lines.show(replace(PROGRESS, running_trials=(), event="the search has ended", search_ended=True))
    [line] = printed(lines)
    assert line.startswith("the search has ended  [8/16 done, 0 running")
    clock.now += 30
    lines.beat()
    assert printed(lines) == ["after 1:59: choosing, scoring and exporting the ensemble"]


def test_a_line_names_a_few_of_many_running_trials(lines: Lines, clock: Clock) -> None:
    lines.show(replace(PROGRESS, running_trials=tuple(RunningTrial(n, 1, 2, 0.5) for n in range(64))))
    clock.now += 30
    lines.beat()
    [line] = printed(lines)
    assert line.endswith("; 60 more")
    assert line.count("epoch") == 4


def test_the_epochs_of_running_trials_count_for_the_time_left(lines: Lines, clock: Clock) -> None:
    start = replace(PROGRESS, trials=2, complete=0, pruned=0, failed=0, best=None, running_trials=())
    lines.show(start)
    clock.now += 30
    lines.show(replace(start, running_trials=(RunningTrial(0, 1, 4, 1.0), RunningTrial(1, 1, 4, 1.0))))
    lines.beat()
    assert "no complete trial yet, about 1:30 left; trial 0 epoch 1/4" in printed(lines)[0]


def test_the_time_budget_limits_the_time_left(lines: Lines, clock: Clock) -> None:
    lines.show(replace(PROGRESS, end=clock.now + 100))
    clock.now += 30
    lines.beat()
    assert "about 1:10 left" in printed(lines)[0]


def test_a_pipe_is_no_terminal_even_with_forced_colours() -> None:
    file = io.StringIO()
    with LiveView(Console(file=file, width=80, force_terminal=True, color_system=None)) as live:
        live.announce("disk: [enough]")
        live.update(PROGRESS)
        live.update(replace(PROGRESS, complete=6))
    first, second = file.getvalue().splitlines()
    assert first == "disk: [enough]"
    assert second.startswith("trial 9 FAIL: the loss is nan  [9/16 done")
