"""The command `convene report`."""

from pathlib import Path

import click

from convene.cli.completion import complete_names
from convene.cli.options import common_options
from convene.cli.printing import print_json


@click.command()
@click.argument("name", shell_complete=complete_names)
@click.option(
    "--to", type=click.Path(path_type=Path), help="A file to use instead of the sweep's report.html."
)
@common_options
def report(name: str, to: Path | None, storage: str, as_json: bool) -> None:
    """Write the report of a sweep as one HTML page.

    The sweep NAME may still be running. The page needs no other files and no network.
    """
    from convene.sweep import recorded_sweep

    file = recorded_sweep.write_report(name, storage=storage, to=to)
    if as_json:
        print_json({"name": name, "report": file})
    else:
        click.echo(file)
