"""The command `convene sweep`."""

import re
from pathlib import Path
from typing import Any

import click

from convene.cli.completion import complete_files_and_names
from convene.cli.options import common_options, drop_unset, resource_options, space_options
from convene.cli.printing import console, print_result
from convene.errors import InputError


@click.command()
@click.argument(
    "file",
    metavar="FILE|NAME",
    type=click.Path(path_type=Path),
    shell_complete=complete_files_and_names,
)
@click.option("--name", help="Name of the sweep.  [default: from FILE, numbered if taken]")
@click.option("--trials", metavar="N|+N", help="Override search.trials; +16 adds 16 to the sweep NAME.")
@space_options
@resource_options
@common_options
def sweep(
    file: Path,
    name: str | None,
    trials: str | None,
    changes: dict[str, Any],
    resources: dict[str, Any],
    address: str | None,
    storage: str,
    as_json: bool,
) -> None:
    """Search a space, then build and export the ensemble.

    Run the search space FILE as a new sweep. With --trials +N, add trials to the sweep NAME instead.
    """
    from convene.cli.live_view import LiveView
    from convene.sweep import run

    count = trial_count(trials)
    with LiveView(console(stderr=True)) as live:
        if trials and trials.startswith("+"):
            if name or changes:
                raise InputError(f"--trials {trials}: an existing sweep keeps its name, data, space and seed")
            result, _ = run.resume_sweep(
                str(file),
                more=count or 0,
                storage=storage,
                overrides=resources,
                address=address,
                watch=live.update,
                announce=live.announce,
            )
        else:
            overrides = changes | resources | drop_unset({"search.trials": count})
            result = run.run_sweep(
                file,
                name=name,
                storage=storage,
                overrides=overrides,
                address=address,
                watch=live.update,
                announce=live.announce,
            )
    print_result(result, as_json)


def trial_count(trials: str | None) -> int | None:
    """Return the number in `--trials 16` or `--trials +16`."""
    if trials is None:
        return None
    if not re.fullmatch(r"\+?0*[1-9]\d{0,8}", trials, re.ASCII):
        raise InputError(f"--trials {trials}: must be a whole number of at least 1, or +N")
    return int(trials)
