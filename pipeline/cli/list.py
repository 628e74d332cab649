"""`convene list`."""

from dataclasses import asdict

import click

from pipeline.cli.options import common_options
from pipeline.cli.printing import console, print_json


@click.command("list")
@common_options
def list_(storage: str, as_json: bool) -> None:
    """List the sweeps under the storage root, with their states and scores."""
    from pipeline import listing, terminal

    listed = listing.list_sweeps(storage)
    if as_json:
        print_json({"sweeps": [asdict(sweep) for sweep in listed]})
    elif listed:
        console().print(terminal.sweeps(listed))
    else:
        click.echo(f"no sweeps under {storage}; begin one with: convene sweep search_spaces/digits.toml")
