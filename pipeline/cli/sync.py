"""`convene sync`."""

import click

from pipeline.cli.options import common_options
from pipeline.cli.printing import print_json


@click.command()
@click.argument("name")
@common_options
def sync(name: str, storage: str, as_json: bool) -> None:
    """Write to MLflow what it lacks of the sweep NAME, and nothing twice."""
    from pipeline import revisit
    from pipeline.errors import WorkError
    from pipeline.record import SweepRecord
    from pipeline.storage import Storage

    waiting = revisit.sync_sweep(name, storage=storage)
    if waiting:
        again = SweepRecord(Storage(storage), name).command("sync")
        raise WorkError(f"MLflow did not take {waiting} records of {name}; try again: {again}")
    if as_json:
        print_json({"name": name, "waiting": 0})
    else:
        click.echo(f"MLflow has all of {name}")
