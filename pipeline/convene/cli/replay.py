"""`convene replay`."""

import sys
from dataclasses import asdict

import click

from convene.cli.options import common_options
from convene.cli.printing import print_json


@click.command()
@click.argument("name")
@click.argument("trial", type=int)
@common_options
def replay(name: str, trial: int, storage: str, as_json: bool) -> None:
    """Run one trial of the sweep NAME again, outside Ray, and say whether its curve is the same."""
    from convene.sweep import recorded

    epochs, changed = recorded.replay_trial(name, trial, storage=storage)
    rows = []
    for row in epochs:
        rows.append(asdict(row) | {"same": row.same})
        if not as_json:
            then, again = row.recorded, row.replayed
            click.echo(
                f"epoch {then.epoch}: valid_loss {then.valid_loss:.6f} then, {again.valid_loss:.6f} now"
                f"{'' if row.same else '  differs'}"
            )
    same = all(row["same"] for row in rows)
    if as_json:
        print_json({"name": name, "trial": trial, "same": same, "epochs": rows, "changed": changed})
    for package, (before, now) in changed.items():
        click.echo(f"{package} was {before} and is {now}", err=True)
    if not as_json:
        click.echo(
            f"trial {trial} of {name}: {'the same curve, to the last bit' if same else 'another curve'}"
        )
    if not same:
        sys.exit(1)
