"""`convene resume`."""

import click

from pipeline.cli.options import common_options, given, resource_options
from pipeline.cli.printing import console, show_outcome


@click.command()
@click.argument("name")
@resource_options
@common_options
def resume(
    name: str,
    time_budget: str | None,
    concurrency: int | None,
    address: str | None,
    storage: str,
    as_json: bool,
) -> None:
    """Finish the sweep NAME after any interruption: the same trials, each from its last epoch."""
    from pipeline import terminal, workflow

    overrides = given({"search.time_budget": time_budget, "search.concurrency": concurrency})
    with terminal.LiveView(console(stderr=True)) as watch:
        outcome, resumed = workflow.resume_sweep(
            name, storage=storage, overrides=overrides, address=address, watch=watch
        )
    if not resumed:
        click.echo(f"sweep {name} is finished; nothing was changed", err=True)
    show_outcome(outcome, as_json)
