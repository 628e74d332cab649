"""`convene resume`."""

import click

from pipeline.cli.options import common_options
from pipeline.cli.printing import console, show_outcome


@click.command()
@click.argument("name")
@click.option("--address", help="A running Ray cluster.  [default: RAY_ADDRESS, else one on this machine]")
@common_options
def resume(name: str, address: str | None, storage: str, as_json: bool) -> None:
    """Finish the sweep NAME after any interruption: the same trials, each from its last epoch."""
    from pipeline import terminal, workflow
    from pipeline.record import SweepRecord
    from pipeline.storage import Storage

    search = SweepRecord.open(Storage(storage), name).space.base.search
    with terminal.LiveView(console(stderr=True), search.objective, search.time_budget) as watch:
        outcome, resumed = workflow.resume_sweep(name, storage=storage, address=address, watch=watch)
    if not resumed:
        click.echo(f"sweep {name} is finished; nothing was changed", err=True)
    show_outcome(outcome, as_json)
