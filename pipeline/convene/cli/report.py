"""`convene report`."""

from pathlib import Path

import click

from convene.cli.options import common_options
from convene.cli.printing import print_json


@click.command()
@click.argument("name")
@click.option("--to", type=click.Path(path_type=Path), help="A file, instead of the sweep's own report.html.")
@common_options
def report(name: str, to: Path | None, storage: str, as_json: bool) -> None:
    """Write the report of the sweep NAME, finished or not, as one page that can be sent."""
    from convene.sweep import recorded

    file = recorded.write_report(name, storage=storage, to=to)
    if as_json:
        print_json({"name": name, "report": file})
    else:
        click.echo(file)
