"""The command `convene list`."""

from dataclasses import asdict

import click

from convene.cli.completion import complete_names
from convene.cli.options import common_options
from convene.cli.printing import console, print_json

# Complete, since an installed wheel has no search-space files.
_FIRST_STEPS = """
A sweep starts with a search space. Save this one, on scikit-learn's digits, as first.toml:

  network.width = { choices = [8, 16, 32] }
  training.epochs = 10
  search.trials = 8

Then run: convene sweep first.toml"""


@click.command("list")
@click.argument("pattern", default="*", shell_complete=complete_names)
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
        click.echo(f"no sweeps under {storage}\n{_FIRST_STEPS}")
