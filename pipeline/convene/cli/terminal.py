"""The tables of sweeps and pictures, as rich renderables."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from convene.search.trial_state import TrialState

if TYPE_CHECKING:
    import pandas as pd

    from convene.records.listing import ListedSweep
    from convene.records.result import SweepResult

_MAX_LEADERBOARD_ROWS = 10
_EPOCHS_TEXT = {TrialState.PRUNED: "{} pruned", TrialState.FAIL: "failed", TrialState.RUNNING: "{} so far"}
_MAX_CONFUSIONS = 10


def leaderboard(
    table: "pd.DataFrame", searched: Sequence[str], members: Sequence[int], console: Console
) -> Table:
    """Return the best trials, with the searched parameters that fit; a star marks ensemble members."""
    unbounded = console.options.update(max_width=1000)
    for count in range(len(searched), -1, -1):
        board = _leaderboard(table, searched[:count], members)
        if Measurement.get(console, unbounded, board).maximum <= console.width:
            break
    return board


def _leaderboard(table: "pd.DataFrame", searched: Sequence[str], members: Sequence[int]) -> Table:
    scored = {"trial": "trial", "valid_loss": "loss", "valid_accuracy": "accuracy"}
    short = {name: name.partition(".")[2].replace("_", "\n") for name in searched}
    board = _table("", *scored.values(), "epochs", *short.values(), left=("epochs",))
    shown = table.head(_MAX_LEADERBOARD_ROWS).astype(object)
    for row in shown.where(shown.notna(), None).to_dict("records"):
        board.add_row(
            "*" if row["trial"] in members else "",
            *(_cell(row.get(name)) for name in scored),
            _EPOCHS_TEXT.get(row["state"], "{}").format(row["epochs"]),
            *(_cell(row.get(name)) for name in short),
        )
    return board


def members(result: "SweepResult") -> Table:
    """Return the ensemble's members, best first."""
    table = _table("member", "weight", "valid", "test", left=())
    for member in result.ensemble.members:
        accuracies = (f"{member.valid_accuracy:.2%}", f"{member.test_accuracy:.2%}")
        table.add_row(str(member.trial), f"{member.weight:.3g}", *accuracies)
    return table


def scores(result: "SweepResult") -> Table:
    """Return the accuracies of the best single network and the ensemble, with 95 % intervals of the test."""
    table = _table("accuracy", "valid", "test", "95 % interval", "trials", left=("accuracy", "trials"))
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
    """Return a table of sweeps."""
    left = ("name", "state", "created", "data")
    table = _table(*left, "trials", "valid", "test", "test\nreads", left=left)
    table.show_edge = False  # saves two of 80 characters
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


def view_summary(kind: str, numbers: Mapping[str, Any], console: Console) -> list[RenderableType]:
    """Return the numbers in a kind of picture."""
    if kind == "confusion":
        correct = f"{numbers['right']:,} of {numbers['images']:,} validation images are correct"
        return [_confusion_matrix(numbers["classes"], numbers["confusion"], console), Text(correct)]
    if kind == "predict":
        return [_predictions(numbers["predictions"])]
    if kind == "errors":
        count = Text(f"{numbers['errors']:,} errors on {numbers['images']:,} validation images")
        return [_predictions(numbers["shown"]), count] if numbers["shown"] else [count]
    if kind == "filters":
        return [
            Text(
                f"layer {layer['layer']}: {layer['filters']} filters, input channel {layer['channel']} "
                f"of {layer['channels']}; full colour = weight of {layer['largest_weight']:.3g}"
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


def _confusion_matrix(classes: Sequence[str], counts: Sequence[Sequence[int]], console: Console) -> Table:
    """Return truth by row and prediction by column or, if that is too wide, the most frequent errors."""
    if 3 * len(classes) > console.width:  # laying out hundreds of columns takes seconds
        return _most_frequent_confusions(classes, counts)
    table = _table("truth", *classes, "recall", left=("truth",))
    for name, row, number in zip(classes, counts, range(len(classes)), strict=True):
        share = f"{row[number] / sum(row):.1%}" if sum(row) else ""
        table.add_row(Text(name), *(str(count or "") for count in row), share)
    unbounded = console.options.update(max_width=10_000)
    if Measurement.get(console, unbounded, table).maximum <= console.width:
        return table
    return _most_frequent_confusions(classes, counts)


def _most_frequent_confusions(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    errors = [
        (count, classes[truth], classes[predicted])
        for truth, row in enumerate(counts)
        for predicted, count in enumerate(row)
        if count and truth != predicted
    ]
    table = _table("errors", "truth", "predicted", left=("truth", "predicted"))
    for count, truth, predicted in sorted(errors, key=lambda error: -error[0])[:_MAX_CONFUSIONS]:
        table.add_row(str(count), Text(truth), Text(predicted))
    return table


def _table(*headings: str, left: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        side: Literal["left", "right"] = "left" if heading in left else "right"
        # Text, because rich would read a class name like "[red]" as markup.
        table.add_column(Text(heading), justify=side, overflow="fold", vertical="bottom")
    return table


def _cell(value: Any) -> str:
    """Return a value in few characters, and nothing for None."""
    if hasattr(value, "__len__") and not isinstance(value, str):
        return " ".join(map(str, value))
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.3g}"
    return str(value)
