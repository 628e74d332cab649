"""The command `convene list`."""

from dataclasses import asdict

import click

from convene.cli.options import common_options
from convene.cli.printing import console, print_json


@click.command("list")
@click.argument("pattern", default="*")
@click.option(
    "--sort",
    default="created",
    show_default=True,
    type=click.Choice(["created", "name", "trials", "valid_accuracy", "test_accuracy"]),
    help="Sort order: names from A to Z; anything else with the latest, largest or best first.",
)
@common_options
def list_(pattern: str, sort: str, storage: str, as_json: bool) -> None:
    """List sweeps with their states and scores.

    PATTERN selects sweeps under the storage root by name, for example 'mnist*'.
    """
    from convene.cli import terminal
    from convene.records import listing

    listed = listing.list_sweeps(storage, pattern, sort)
    if as_json:
        print_json({"sweeps": [asdict(sweep) for sweep in listed]})
    elif listed:
        console().print(terminal.sweeps(listed))
    elif pattern != "*":
        click.echo(f"no sweep under {storage} matches {pattern}")
    else:
        click.echo(f"no sweeps under {storage}; start one with: convene sweep search_spaces/digits.toml")
