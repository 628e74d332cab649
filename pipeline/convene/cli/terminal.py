"""What a terminal shows of a sweep: the live view while it runs, the tables after. Makes, prints nothing."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from convene.formatting import clock
from convene.search.trial_state import TrialState

if TYPE_CHECKING:
    import pandas as pd

    from convene.records.listing import ListedSweep
    from convene.records.result import SweepResult
    from convene.sweep.progress import Progress

_LEADERBOARD_ROWS = 10
_ENDS = {TrialState.PRUNED: "{} stopped", TrialState.FAIL: "failed", TrialState.RUNNING: "{} so far"}
_CONFUSIONS = 10


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

    def announce(self, message: str) -> None:
        """Print a message that stays."""
        self._console.print(message, markup=False, soft_wrap=True)

    def update(self, progress: "Progress") -> None:
        """Show the progress after an event."""
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
        return ", ".join([*parts, f"about {clock(left)} left"] if left is not None else parts)

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
            return Text(f"starting … {clock(time.monotonic() - self._entered)}", style="dim")
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
    shown = table.head(_LEADERBOARD_ROWS).astype(object)
    for row in shown.where(shown.notna(), None).to_dict("records"):
        board.add_row(
            "*" if row["trial"] in members else "",
            *(_cell(row.get(name)) for name in scored),
            _ENDS.get(row["state"], "{}").format(row["epochs"]),
            *(_cell(row.get(name)) for name in short),
        )
    return board


def members(result: "SweepResult") -> Table:
    """The ensemble's members, best first."""
    table = _table("member", "weight", "valid", "test", left=())
    for member in result.ensemble.members:
        accuracies = (f"{member.valid_accuracy:.2%}", f"{member.test_accuracy:.2%}")
        table.add_row(str(member.trial), f"{member.weight:.3g}", *accuracies)
    return table


def scores(result: "SweepResult") -> Table:
    """The best single model's and the ensemble's accuracies, with the test's 95 % interval."""
    table = _table("accuracy", "valid", "test", "95 % of test", "trials", left=("accuracy", "trials"))
    single, ensemble = result.best_single, result.ensemble
    for name, scored, members in (
        ("best single", single, str(single.trial)),
        ("ensemble", ensemble, " ".join(map(str, ensemble.trials))),
    ):
        low, high = scored.test_interval
        table.add_row(
            name,
            f"{scored.valid_accuracy:.2%}",
            f"{scored.test_accuracy:.2%}",
            f"{low:.2%} to {high:.2%}",
            members,
        )
    return table


def sweeps(listed: "Sequence[ListedSweep]") -> Table:
    """The sweeps under a storage root."""
    left = ("name", "state", "created", "data")
    table = _table(*left, "trials", "valid", "test", "test\nreads", left=left)
    table.show_edge = False  # two characters, of 80
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


def exhibit(what: str, numbers: Mapping[str, Any], console: Console) -> list[RenderableType]:
    """What a kind of picture says in numbers."""
    if what == "confusion":
        right = f"{numbers['right']:,} of {numbers['images']:,} validation images are right"
        return [_confusion(numbers["classes"], numbers["confusion"], console), Text(right)]
    if what == "predict":
        return [_predictions(numbers["predictions"])]
    if what == "errors":
        count = Text(f"{numbers['errors']:,} errors on {numbers['images']:,} validation images")
        return [_predictions(numbers["shown"]), count] if numbers["shown"] else [count]
    if what == "filters":
        return [
            Text(
                f"layer {layer['layer']}: {layer['filters']} filters, input channel {layer['channel']} "
                f"of {layer['channels']}; full colour is a weight of {layer['largest_weight']:.3g}"
            )
            for layer in numbers["layers"]
        ]
    return []


def _predictions(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("image", "truth", "predicted", "probability", left=("image", "truth", "predicted"))
    for row in rows:
        wrong = row["truth"] not in (None, row["predicted"])
        predicted = Text(row["predicted"] + (" (wrong)" if wrong else ""))
        table.add_row(Text(row["image"]), Text(row["truth"] or ""), predicted, f"{row['probability']:.4f}")
    return table


def _confusion(classes: Sequence[str], counts: Sequence[Sequence[int]], console: Console) -> Table:
    """Truth by row and prediction by column; where that is too wide, the most frequent errors."""
    if 3 * len(classes) > console.width:  # seconds, to lay out hundreds of columns
        return _confusions(classes, counts)
    table = _table("truth", *classes, "right", left=("truth",))
    for name, row, number in zip(classes, counts, range(len(classes)), strict=True):
        share = f"{row[number] / sum(row):.1%}" if sum(row) else ""
        table.add_row(Text(name), *(str(count or "") for count in row), share)
    unbounded = console.options.update(max_width=10_000)
    if Measurement.get(console, unbounded, table).maximum <= console.width:
        return table
    return _confusions(classes, counts)


def _confusions(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    errors = [
        (count, classes[truth], classes[predicted])
        for truth, row in enumerate(counts)
        for predicted, count in enumerate(row)
        if count and truth != predicted
    ]
    table = _table("errors", "truth", "predicted", left=("truth", "predicted"))
    for count, truth, predicted in sorted(errors, key=lambda error: -error[0])[:_CONFUSIONS]:
        table.add_row(str(count), Text(truth), Text(predicted))
    return table


def _table(*headings: str, left: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        side: Literal["left", "right"] = "left" if heading in left else "right"
        # As it is: a class may have a name that rich would take for markup.
        table.add_column(Text(heading), justify=side, overflow="fold", vertical="bottom")
    return table


def _cell(value: Any) -> str:
    """A value in few characters; nothing for None."""
    if hasattr(value, "__len__") and not isinstance(value, str):
        return " ".join(map(str, value))
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.3g}"
    return str(value)
