"""What the verbs print."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import STORAGE

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.record import Outcome


def show_outcome(outcome: "Outcome", as_json: bool) -> None:
    """A sweep's leaderboard, scores, and what to do next; or its JSON."""
    if as_json:
        print_json(asdict(outcome))
        return
    from pipeline import listing, terminal
    from pipeline.record import SweepRecord
    from pipeline.storage import Storage

    table, searched = listing.leaderboard(outcome)
    members = [member["trial"] for member in outcome.ensemble["members"]]
    out = console()
    out.print(terminal.leaderboard(table, searched, members, out))
    out.print(terminal.scores(outcome))
    states = ", ".join(f"{count} {state}" for state, count in outcome.states.items())
    at = "" if outcome.storage == str(Path(STORAGE).absolute()) else f" --storage {outcome.storage}"
    lines = [
        f"sweep {outcome.name}: {outcome.trials} trials ({states}) "
        f"in {terminal.duration(outcome.wall_seconds)}; * in the ensemble"
        + (f"; {outcome.taken} earlier ones were known" if outcome.taken else ""),
        f"test set read {outcome.test_reads} time{'s' if outcome.test_reads > 1 else ''}"
        + (": its scores are no longer those of a first look" if outcome.test_reads > 1 else ""),
        f"report:   {SweepRecord(Storage(outcome.storage), outcome.name).report}",
        f"browse:   convene ui{at}",
        f"ensemble: {outcome.export}",
    ]
    if outcome.mlflow["waiting"]:
        lines.append(
            f"MLflow lacks {outcome.mlflow['waiting']} records; write them with: convene sync {outcome.name}"
        )
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(content: Any) -> None:
    """The one JSON object of a verb."""
    click.echo(json.dumps(content))


def console(stderr: bool = False) -> "Console":
    """A terminal, or what stands for one."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
