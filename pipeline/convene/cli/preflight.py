"""The command `convene preflight`."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convene.cli.options import common_options, drop_unset, resource_options, space_options
from convene.cli.printing import print_json

if TYPE_CHECKING:
    from convene.sweep.preflight import Preflight


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--trials", type=int, help="Override search.trials.")
@space_options
@resource_options
@common_options
def preflight(
    file: Path,
    trials: int | None,
    changes: dict[str, Any],
    resources: dict[str, Any],
    address: str | None,
    storage: str,
    as_json: bool,
) -> None:
    """Estimate the time and disk use of a sweep, and find problems.

    Train only a few steps of some configurations of the search space FILE. The exit code is 1 if there is a
    problem.
    """
    from convene.sweep.preflight import examine

    overrides = changes | resources | drop_unset({"search.trials": trials})
    found = examine(file, storage=storage, overrides=overrides, address=address)
    if as_json:
        print_json(asdict(found))
    else:
        for subject, line in summary_lines(found):
            click.echo(f"{subject:<12}{line}")
    if found.problems:
        sys.exit(1)


def summary_lines(found: "Preflight") -> Iterator[tuple[str, str]]:
    """Yield the subjects of the summary, each with its text."""
    from convene.formatting import byte_size, clock, plural

    data, seconds, largest = found.data, found.seconds, found.largest
    shape = "x".join(map(str, data.shape))
    yield "data", f"{data.name}: {shape}, {data.classes} classes"
    yield "images", f"{data.train:,} training, {data.valid:,} validation, {data.test:,} test"
    count = f"; {found.configurations:,} configurations fit" if (found.configurations or 0) > 1 else ""
    yield "searched", (", ".join(found.searched) or "nothing") + count
    if seconds:
        yield (
            "trial",
            f"{seconds.trial:.3g} s on average, {seconds.least:.3g} s to {seconds.most:.3g} s",
        )
    trained = "" if largest.seconds is None else f", {largest.seconds:.3g} s"
    yield "largest", f"{largest.parameters:,} parameters{trained}"
    if seconds:
        early, late = map(clock, seconds.sweep)
        trials = plural(found.trials, "trial")
        yield "sweep", f"{trials}, {found.concurrency} at a time: {early} to {late}"
    if seconds and seconds.budget is not None and seconds.budget_trials:
        fewest, most = seconds.budget_trials
        yield "time budget", f"{clock(seconds.budget)} for training: {fewest} to {most} trials"
    yield "disk", str(found.disk)
    if gpu := found.gpu:
        each, total = byte_size(gpu.trial), byte_size(gpu.total)
        yield "GPU", f"fits {plural(gpu.trials, 'trial')} of the largest network: {each} each, of {total}"
    for problem in found.problems or ("none",):
        yield "problem", problem
