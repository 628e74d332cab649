"""The live view of a running sweep: bars on a terminal, otherwise one line at a time."""

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, final

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from convene.formatting import clock, plural

if TYPE_CHECKING:
    from convene.sweep.progress import Progress as SweepProgress
    from convene.sweep.progress import RunningTrial

Clock = Callable[[], float]

_LINE_EVERY = 30.0  # seconds, at most, between two lines without a terminal
_BEAT = 1.0  # seconds between two looks at the clock
_TEXT_WIDTH = 56  # columns beside a bar: number, count, value, and the spaces between them
_MAX_BAR_WIDTH = 40
_OTHER_LINES = 6  # of a terminal, which are not a running trial's
_MAX_RUNNING_ON_A_LINE = 4


@final
class LiveView:
    """A sweep's progress for as long as the context lasts: bars on a terminal, otherwise lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # A pipe is no terminal, even if FORCE_COLOR makes rich treat it as one.
        is_terminal = console.is_interactive and console.file.isatty()
        self._display: Bars | Lines = Bars(console) if is_terminal else Lines(console)

    def __enter__(self) -> "LiveView":
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._display.stop()

    def announce(self, message: str) -> None:
        """Print a message that stays."""
        self._console.print(message, markup=False, soft_wrap=True)

    def update(self, progress: "SweepProgress") -> None:
        """Show the progress after an event."""
        self._display.show(progress)


@final
class TimeLeft:
    """Estimates the time left from the pace so far, limited by the time budget."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._first: tuple[float, float] | None = None
        """The time of the first event, and the work done by then: not 0 for a resumed sweep."""

    def note(self, progress: "SweepProgress") -> None:
        """Note the first event."""
        self._first = self._first or (self._now(), progress.work_done)

    def text(self, progress: "SweepProgress") -> str:
        """Return the estimate as text; empty if the search has ended or its pace is not known yet."""
        seconds = None if progress.search_ended else self._seconds(progress)
        return "" if seconds is None else f"about {clock(seconds)} left"

    def _seconds(self, progress: "SweepProgress") -> float | None:
        now = self._now()
        to_budget = None if progress.end is None else max(0.0, progress.end - now)
        began, before = self._first or (now, progress.work_done)
        work = progress.work_done - before
        if work <= 0:
            return to_budget
        by_pace = (now - began) / work * (progress.trials - progress.work_done)
        return by_pace if to_budget is None else min(by_pace, to_budget)


@final
class Bars(Progress):
    """A bar for the sweep, a bar for each running trial, and the best trial, redrawn in place.

    The lines are made anew from the last progress whenever rich draws them, in a thread of its own: a change
    that is only half done is never visible.
    """

    def __init__(self, console: Console, now: Clock = time.monotonic) -> None:
        self._now, self._entered = now, now()
        self._time_left = TimeLeft(now)
        self._sweep: SweepProgress | None = None
        self._bar = BarColumn()
        super().__init__(
            _text_column("description"),
            self._bar,
            _text_column("fields[count]"),
            _text_column("fields[detail]"),
            console=console,
            transient=True,
        )

    def show(self, progress: "SweepProgress") -> None:
        """Show the progress after an event."""
        self._time_left.note(progress)
        self._sweep = progress

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the lines; rich asks for them whenever it draws."""
        sweep = self._sweep
        if sweep is None:
            yield Text(f"starting … {clock(self._now() - self._entered)}", style="dim")
            return
        self._bar.bar_width = max(4, min(_MAX_BAR_WIDTH, self.console.width - _TEXT_WIDTH))
        shown = sweep.running_trials[: max(1, self.console.height - _OTHER_LINES)]
        running = [self._running(trial, sweep.objective) for trial in shown]
        yield self.make_tasks_table([self._whole(sweep), *running])
        if hidden := sweep.running - len(shown):
            yield _one_line(f"and {plural(hidden, 'more running trial')}")
        yield _one_line(", ".join([_best(sweep), *_counts(sweep)]))
        event = "choosing, scoring and exporting the ensemble" if sweep.search_ended else sweep.event
        yield _one_line(event, style="dim")

    def _whole(self, sweep: "SweepProgress") -> Task:
        return self._task("sweep", sweep.done, sweep.trials, "trials", self._time_left.text(sweep))

    def _running(self, trial: "RunningTrial", objective: str) -> Task:
        value = "" if trial.value is None else f"{objective} {trial.value:.4f}"
        return self._task(f"trial {trial.number}", trial.epoch, trial.epochs, "epochs", value)

    def _task(self, name: str, done: int, total: int, unit: str, detail: str) -> Task:
        fields = {"count": f"{done}/{total} {unit}", "detail": detail}
        task = Task(TaskID(0), name, total, done, _get_time=self.get_time, fields=fields)
        task.start_time = self._entered  # the bar of a task that has not started would pulse
        return task


def _text_column(field: str) -> TextColumn:
    return TextColumn(f"{{task.{field}}}", markup=False, table_column=Column(no_wrap=True))


def _one_line(text: str, style: str = "") -> Text:
    return Text(text, style=style, overflow="ellipsis", no_wrap=True)


@final
class Lines:
    """One line for each ended trial, and one whenever nothing was printed for 30 s."""

    def __init__(self, console: Console, now: Clock = time.monotonic) -> None:
        self._console, self._now = console, now
        self._entered = self._last_line = now()
        self._time_left = TimeLeft(now)
        self._progress: SweepProgress | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        """Begin to print a line whenever nothing was printed for a while."""
        self._thread.start()

    def stop(self) -> None:
        """Print no more."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_BEAT):
            self.beat()

    def show(self, progress: "SweepProgress") -> None:
        """Print the event if a trial or the search has ended by it."""
        with self._lock:
            self._time_left.note(progress)
            last, self._progress = self._progress, progress
            has_ended = progress.done > last.done if last else False
            if has_ended or progress.search_ended:
                self._print(f"{progress.event}  [{self._summary(progress)}]")

    def beat(self) -> None:
        """Print the state of the sweep if nothing was printed for a while."""
        with self._lock:
            if self._now() - self._last_line >= _LINE_EVERY:
                self._print(f"after {clock(self._now() - self._entered)}: {self._state()}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)
        self._last_line = self._now()

    def _state(self) -> str:
        progress = self._progress
        if progress is None:
            return "starting"
        if progress.search_ended:
            return "choosing, scoring and exporting the ensemble"
        running = [_running(trial, progress.objective) for trial in progress.running_trials]
        if hidden := len(running[_MAX_RUNNING_ON_A_LINE:]):
            running[_MAX_RUNNING_ON_A_LINE:] = [f"{hidden} more"]
        return "; ".join([self._summary(progress), *running])

    def _summary(self, progress: "SweepProgress") -> str:
        done = [f"{progress.done}/{progress.trials} done", f"{progress.running} running"]
        left = self._time_left.text(progress)
        return ", ".join([*done, *_counts(progress), _best(progress), *([left] if left else [])])


def _counts(progress: "SweepProgress") -> list[str]:
    """Return the numbers of trials that ended before their last epoch."""
    counts = {"pruned": progress.pruned, "failed": progress.failed}
    return [f"{count} {state}" for state, count in counts.items() if count]


def _best(progress: "SweepProgress") -> str:
    if progress.best is None:
        return "no complete trial yet"
    number, value = progress.best
    return f"best {progress.objective} {value:.4f} (trial {number})"


def _running(trial: "RunningTrial", objective: str) -> str:
    value = "" if trial.value is None else f" {objective} {trial.value:.4f}"
    return f"trial {trial.number} epoch {trial.epoch}/{trial.epochs}{value}"
