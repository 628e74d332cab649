"""What a terminal shows of a sweep: the live view while it runs, the tables after. Makes, prints nothing."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.listing import ListedSweep
    from pipeline.observer import Progress
    from pipeline.record import Outcome

_LEADERBOARD_ROWS = 10


@final
class LiveView:
    """A sweep's progress: redrawn in place on a terminal, a plain line for each ended trial elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._entered = time.monotonic()
        self._first: tuple[float, int] | None = None
        """When training began, and how many trials were done by then: a resumed sweep has some."""
        self._progress: Progress | None = None
        self._done = 0
        self._live = Live(console=console, get_renderable=self._draw, transient=True)

    def __enter__(self) -> "LiveView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, progress: "Progress") -> None:
        """Takes note of an event."""
        self._progress = progress
        self._first = self._first or (time.monotonic(), progress.done)
        if not self._console.is_terminal and progress.done > self._done:
            self._console.print(
                f"{progress.event}  [{self._summary(progress)}]", markup=False, soft_wrap=True
            )
        self._done = progress.done

    def _summary(self, progress: "Progress") -> str:
        parts = [f"{progress.done}/{progress.trials} done", f"{progress.running} running"]
        if progress.pruned:
            parts.append(f"{progress.pruned} stopped")
        if progress.failed:
            parts.append(f"{progress.failed} failed")
        if progress.best:
            number, value = progress.best
            parts.append(f"best {progress.objective} {value:.4f} (trial {number})")
        left = self._seconds_left(progress)
        return ", ".join([*parts, f"about {duration(left)} left"] if left is not None else parts)

    def _seconds_left(self, progress: "Progress") -> float | None:
        """By the pace since training began, and never past the time budget."""
        now = time.monotonic()
        to_budget = None if progress.end is None else max(0.0, progress.end - now)
        began, before = self._first or (now, 0)
        if progress.done == before:
            return to_budget
        by_pace = (now - began) / (progress.done - before) * (progress.trials - progress.done)
        return by_pace if to_budget is None else min(by_pace, to_budget)

    def _draw(self) -> RenderableType:
        if self._progress is None:
            return Text(f"starting … {duration(time.monotonic() - self._entered)}", style="dim")
        progress = self._progress
        bar = ProgressBar(total=progress.trials, completed=progress.done, width=40)
        event = Text(progress.event, style="dim", overflow="ellipsis", no_wrap=True)
        return Group(bar, Text(self._summary(progress)), event)


def leaderboard(
    table: "pd.DataFrame", searched: Sequence[str], members: Sequence[int], console: Console
) -> Table:
    """The best trials with as much of what was searched as fits; a star marks the ensemble's members."""
    unbounded = console.options.update(max_width=1000)
    for shown in range(len(searched), -1, -1):
        board = _leaderboard(table, searched[:shown], members)
        if Measurement.get(console, unbounded, board).maximum <= console.width:
            break
    return board


def _leaderboard(table: "pd.DataFrame", searched: Sequence[str], members: Sequence[int]) -> Table:
    scored = {"trial": "trial", "valid_loss": "loss", "valid_accuracy": "accuracy"}
    short = {name: name.partition(".")[2].replace("_", "\n") for name in searched}
    board = _table("", *scored.values(), "epochs", *short.values(), left=("epochs",))
    for row in table.head(_LEADERBOARD_ROWS).to_dict("records"):
        board.add_row(
            "*" if row["trial"] in members else "",
            *(_cell(row.get(name)) for name in scored),
            {"PRUNED": f"{row['epochs']} stopped", "FAIL": "failed"}.get(row["state"], str(row["epochs"])),
            *(_cell(row.get(name)) for name in short),
        )
    return board


def scores(outcome: "Outcome") -> Table:
    """The best single model's and the ensemble's accuracies, with the test's 95 % interval."""
    table = _table("accuracy", "valid", "test", "95 % of test", "trials", left=("accuracy", "trials"))
    single, ensemble = outcome.best_single, outcome.ensemble
    for name, scored, members in (
        ("best single", single, str(single["trial"])),
        ("ensemble", ensemble, " ".join(str(member["trial"]) for member in ensemble["members"])),
    ):
        low, high = scored["test_interval"]
        table.add_row(
            name,
            f"{scored['valid_accuracy']:.2%}",
            f"{scored['test_accuracy']:.2%}",
            f"{low:.2%} to {high:.2%}",
            members,
        )
    return table


def sweeps(listed: "Sequence[ListedSweep]") -> Table:
    """The sweeps under a storage root."""
    left = ("name", "state", "created", "data")
    table = _table(*left, "trials", "valid", "test", "test reads", left=left)
    for sweep in listed:
        table.add_row(
            sweep.name,
            sweep.state,
            sweep.created[:16].replace("T", " "),
            sweep.dataset,
            _cell(sweep.trials),
            "" if sweep.valid_accuracy is None else f"{sweep.valid_accuracy:.2%}",
            "" if sweep.test_accuracy is None else f"{sweep.test_accuracy:.2%}",
            str(sweep.test_reads),
        )
    return table


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes: 0:07, 12:30, 2h05m."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}:{whole % 60:02d}"


def _table(*headings: str, left: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(
            heading, justify="left" if heading in left else "right", overflow="fold", vertical="bottom"
        )
    return table


def _cell(value: Any) -> str:
    """A value in few characters; nothing for None and NaN."""
    if hasattr(value, "__len__") and not isinstance(value, str):
        return " ".join(map(str, value))
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.3g}"
    return str(value)
