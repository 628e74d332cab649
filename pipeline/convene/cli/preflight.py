"""`convene preflight`."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convene.cli.options import common_options, given, resource_options, space_options
from convene.cli.printing import print_json

if TYPE_CHECKING:
    from convene.sweep.preflight import Preflight


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--trials", type=int, help="Overrides search.trials.")
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
    """Say what a sweep of FILE would take, and what stands in its way; a few steps are all that it trains."""
    from convene.sweep.preflight import examine

    overrides = changes | resources | given({"search.trials": trials})
    seen = examine(file, storage=storage, overrides=overrides, address=address)
    if as_json:
        print_json(asdict(seen))
    else:
        for subject, line in lines(seen):
            click.echo(f"{subject:<12}{line}")
    if seen.problems:
        sys.exit(1)


def lines(seen: "Preflight") -> Iterator[tuple[str, str]]:
    """What people are told: subjects, and what there is to say of each."""
    from convene.formatting import byte_size, clock

    data, seconds, largest = seen.data, seen.seconds, seen.largest
    shape = "x".join(map(str, data.shape))
    yield "data", f"{data.name}: {shape}, {data.classes} classes"
    yield "images", f"{data.train:,} to train, {data.valid:,} to validate, {data.test:,} to test"
    count = f"; {seen.configurations:,} configurations fit" if (seen.configurations or 0) > 1 else ""
    yield "searched", (", ".join(seen.searched) or "nothing") + count
    if seconds:
        yield (
            "a trial",
            f"trains {seconds.trial:.3g} s on average, {seconds.least:.3g} s to {seconds.most:.3g} s",
        )
    trained = "" if largest.seconds is None else f", {largest.seconds:.3g} s"
    yield "the largest", f"{largest.parameters:,} parameters{trained}"
    if seconds:
        early, late = map(clock, seconds.sweep)
        yield "the sweep", f"{seen.trials} trials, {seen.concurrency} at a time: {early} to {late}"
    if seconds and seconds.budget is not None and seconds.budget_trials:
        fewest, most = seconds.budget_trials
        yield "the budget", f"leaves {clock(seconds.budget)} to train: {fewest} to {most} trials"
    yield "disk", str(seen.disk)
    if gpu := seen.gpu:
        each, total = byte_size(gpu.trial), byte_size(gpu.total)
        yield "a GPU", f"holds {gpu.trials} of the largest trial: {each} of {total}"
    for problem in seen.problems or ("none",):
        yield "problem", problem
