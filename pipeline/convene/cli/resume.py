"""The command `convene resume`."""

from typing import Any

import click

from convene.cli.completion import complete_names
from convene.cli.options import common_options, resource_options
from convene.cli.printing import console, print_result


@click.command()
@click.argument("name", shell_complete=complete_names)
@resource_options
@common_options
def resume(
    name: str,
    resources: dict[str, Any],
    address: str | None,
    storage: str,
    as_json: bool,
) -> None:
    """Finish a sweep after an interruption.

    Every trial of the sweep NAME keeps its number and continues from its last epoch.
    """
    from convene.cli.live_view import LiveView
    from convene.sweep import run

    with LiveView(console(stderr=True)) as live:
        result, resumed = run.resume_sweep(
            name,
            storage=storage,
            overrides=resources,
            address=address,
            watch=live.update,
            announce=live.announce,
        )
    if not resumed:
        click.echo(f"sweep {name} is finished; nothing was changed", err=True)
    print_result(result, as_json)
