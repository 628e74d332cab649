"""What the verbs print."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from convene.formatting import clock
from convene.search.trial_state import TrialState

if TYPE_CHECKING:
    from rich.console import Console

    from convene.records.listing import SweepView
    from convene.records.result import SweepResult

_REASONS = 5  # failed trials whose reason is told


def show_result(result: "SweepResult", as_json: bool) -> None:
    """A sweep's leaderboard, scores, and what to do next; or its JSON."""
    if as_json:
        print_json(result.to_json())
        return
    from convene.cli import terminal
    from convene.records import listing

    table, searched = listing.leaderboard(result)
    out = console()
    out.print(terminal.leaderboard(table, searched, result.ensemble.trials, out))
    out.print(terminal.scores(result))
    _print_lines([*_summary(result), *_ways_on(result)])


def show_view(view: "SweepView", as_json: bool) -> None:
    """A sweep's leaderboard, members and scores, as far as it has come; or their JSON."""
    result = view.result
    if as_json:
        content = {"name": view.name, "state": view.state, "asked": view.asked, "states": view.states}
        plain = result.to_json() if result else {}
        scored = {key: plain.get(key) for key in ("ensemble", "best_single")}
        rows = json.loads(view.table.to_json(orient="records"))  # whose NaN is null
        print_json(content | scored | {"test_reads": view.test_reads, "trials": rows})
        return
    from convene.cli import terminal

    members = result.ensemble.trials if result else ()
    out = console()
    if len(view.table):
        out.print(terminal.leaderboard(view.table, view.searched, members, out))
    if result:
        out.print(terminal.members(result))
        out.print(terminal.scores(result))
        _print_lines(_summary(result))
    if view.state != "finished":
        states = ", ".join(f"{count} {state}" for state, count in view.states.items()) or "none has begun"
        _print_lines([f"sweep {view.name} is {view.state}; of {view.asked} trials: {states}"])
    if view.state == "unfinished":
        _print_lines([f"go on with: {view.resume}"])
    failed = view.table[view.table["state"] == TrialState.FAIL].head(_REASONS)
    _print_lines([f"trial {row['trial']} failed: {row['reason']}" for row in failed.to_dict("records")])


def _summary(result: "SweepResult") -> list[str]:

    states = ", ".join(f"{count} {state}" for state, count in result.states.items())
    return [
        f"sweep {result.name}: {result.trials} {'trial' if result.trials == 1 else 'trials'} ({states}) "
        f"in {clock(result.wall_seconds)}; * in the ensemble"
        + (f"; {result.taken} earlier ones were known" if result.taken else ""),
        f"test set read {result.test_reads} time{'s' if result.test_reads > 1 else ''}"
        + (": its scores are no longer those of a first look" if result.test_reads > 1 else ""),
    ]


def _ways_on(result: "SweepResult") -> list[str]:
    from convene.records.sweep_record import SweepRecord
    from convene.storage import Storage

    record, waiting = SweepRecord(Storage(result.storage), result.name), result.mlflow.waiting
    lacks = f"MLflow lacks {waiting} records; write them with: {record.command('sync')}"
    return [
        f"report:   {record.report}",
        f"browse:   {record.command('ui')}",
        f"ensemble: {result.export}",
        *([lacks] if waiting else []),
    ]


def _print_lines(lines: Sequence[str]) -> None:
    """Text as it is, on lines as long as it needs."""
    out = console()
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(content: Any) -> None:
    """The one JSON object of a verb."""
    click.echo(json.dumps(content))


def console(stderr: bool = False) -> "Console":
    """A terminal, or what stands for one."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
