"""The command `convene replay`."""

import sys
from dataclasses import asdict

import click

from convene.cli.completion import complete_names
from convene.cli.options import common_options
from convene.cli.printing import print_json


@click.command()
@click.argument("name", shell_complete=complete_names)
@click.argument("trial", type=int)
@common_options
def replay(name: str, trial: int, storage: str, as_json: bool) -> None:
    """Train one trial again and compare its learning curve.

    Train the trial with number TRIAL of the sweep NAME outside Ray. The exit code is 1 if the curves differ.
    """
    from convene.sweep import recorded_sweep

    epochs, changed = recorded_sweep.replay_trial(name, trial, storage=storage)
    rows = []
    for row in epochs:
        rows.append(asdict(row) | {"same": row.same})
        if not as_json:
            recorded_loss, replayed_loss = row.recorded.valid_loss, row.replayed.valid_loss
            click.echo(
                f"epoch {row.recorded.epoch}: valid_loss {recorded_loss:.6f} recorded, "
                f"{replayed_loss:.6f} replayed{'' if row.same else '  (differs)'}"
            )
    same = all(row["same"] for row in rows)
    if as_json:
        print_json({"name": name, "trial": trial, "same": same, "epochs": rows, "changed": changed})
    for package, (before, now) in changed.items():
        click.echo(f"{package}: version {before} when recorded, {now} now", err=True)
    if not as_json:
        click.echo(f"trial {trial} of {name}: {'identical' if same else 'different'} learning curve")
    if not same:
        sys.exit(1)
