"""The command `convene sync`."""

import click

from convene.cli.completion import complete_names
from convene.cli.options import common_options
from convene.cli.printing import print_json


@click.command()
@click.argument("name", shell_complete=complete_names)
@common_options
def sync(name: str, storage: str, as_json: bool) -> None:
    """Write the missing records of a sweep to MLflow.

    Bring the runs of the sweep NAME up to date, without duplicates.
    """
    from convene.errors import WorkError
    from convene.formatting import plural
    from convene.records.sweep_record import SweepRecord
    from convene.storage import Storage
    from convene.sweep import recorded_sweep

    waiting = recorded_sweep.sync_sweep(name, storage=storage)
    if waiting:
        retry = SweepRecord(Storage(storage), name).command("sync")
        raise WorkError(f"sweep {name}: {plural(waiting, 'pending write')} to MLflow; retry with: {retry}")
    if as_json:
        print_json({"name": name, "waiting": 0})
    else:
        click.echo(f"sweep {name}: MLflow is up to date")
