"""`convene sync`."""

import click

from convene.cli.options import common_options
from convene.cli.printing import print_json


@click.command()
@click.argument("name")
@common_options
def sync(name: str, storage: str, as_json: bool) -> None:
    """Write to MLflow what it lacks of the sweep NAME, and nothing twice."""
    from convene.errors import WorkError
    from convene.records.sweep_record import SweepRecord
    from convene.storage import Storage
    from convene.sweep import recorded

    waiting = recorded.sync_sweep(name, storage=storage)
    if waiting:
        again = SweepRecord(Storage(storage), name).command("sync")
        raise WorkError(f"MLflow did not take {waiting} records of {name}; try again: {again}")
    if as_json:
        print_json({"name": name, "waiting": 0})
    else:
        click.echo(f"MLflow has all of {name}")
