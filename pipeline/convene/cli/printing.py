"""The output that several commands share."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from convene.formatting import clock, plural
from convene.search.trial_state import TrialState

if TYPE_CHECKING:
    from rich.console import Console

    from convene.records.listing import SweepView
    from convene.records.result import SweepResult

_MAX_REASONS = 5  # failed trials whose reason is shown


def print_result(result: "SweepResult", as_json: bool) -> None:
    """Print a sweep's leaderboard, scores and next steps, or its JSON."""
    if as_json:
        print_json(result.to_json())
        return
    from convene.cli import terminal
    from convene.records import listing

    table, searched = listing.leaderboard(result)
    out = console()
    out.print(terminal.leaderboard(table, searched, result.ensemble.trials, out))
    out.print(terminal.scores(result))
    _print_lines([*_summary(result), *_next_steps(result)])


def print_view(view: "SweepView", as_json: bool) -> None:
    """Print the leaderboard, members and scores that a sweep has so far, or their JSON."""
    result = view.result
    if as_json:
        content = {"name": view.name, "state": view.state, "asked": view.asked, "states": view.states}
        plain = result.to_json() if result else {}
        scored = {key: plain.get(key) for key in ("ensemble", "best_single")}
        rows = json.loads(view.table.to_json(orient="records"))  # writes NaN as null
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
        states = ", ".join(f"{count} {state}" for state, count in view.states.items()) or "none started"
        _print_lines(
            [f"sweep {view.name} is {view.state}; {plural(view.asked, 'trial')} requested: {states}"]
        )
    if view.state == "unfinished":
        _print_lines([f"continue with: {view.resume}"])
    failed = view.table[view.table["state"] == TrialState.FAIL].head(_MAX_REASONS)
    _print_lines([f"trial {row['trial']} failed: {row['reason']}" for row in failed.to_dict("records")])


def _summary(result: "SweepResult") -> list[str]:
    states = ", ".join(f"{count} {state}" for state, count in result.states.items())
    earlier = f"; started from {plural(result.taken, 'earlier trial')}" if result.taken else ""
    reads = "test set read once"
    if result.test_reads > 1:
        reads = f"test set read {result.test_reads} times: scores after the first read may be optimistic"
    return [
        f"sweep {result.name}: {plural(result.trials, 'trial')} ({states}) "
        f"in {clock(result.wall_seconds)}; * = member{earlier}",
        reads,
    ]


def _next_steps(result: "SweepResult") -> list[str]:
    from convene.records.sweep_record import SweepRecord
    from convene.storage import Storage

    record, waiting = SweepRecord(Storage(result.storage), result.name), result.mlflow.waiting
    pending = f"MLflow:   {plural(waiting, 'pending write')}; retry with: {record.command('sync')}"
    return [
        f"report:   {record.report}",
        f"browse:   {record.command('ui')}",
        f"ensemble: {result.export}",
        *([pending] if waiting else []),
    ]


def _print_lines(lines: Sequence[str]) -> None:
    """Print text unchanged, without wrapping."""
    out = console()
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(content: Any) -> None:
    """Print the one JSON object of a command."""
    click.echo(json.dumps(content))


def console(stderr: bool = False) -> "Console":
    """Return a console for standard output or standard error."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
