"""The command `convene export`."""

from pathlib import Path

import click

from convene.cli.completion import complete_names
from convene.cli.options import common_options
from convene.cli.printing import print_json


@click.command()
@click.argument("name", shell_complete=complete_names)
@click.option("--to", required=True, type=click.Path(path_type=Path), help="A new or empty folder.")
@common_options
def export(name: str, to: Path, storage: str, as_json: bool) -> None:
    """Copy the exported ensemble of a sweep to a folder.

    NAME is the sweep. The hash of every file is checked.
    """
    from convene.sweep import recorded_sweep

    folder = recorded_sweep.export_ensemble(name, to, storage=storage)
    if as_json:
        print_json({"name": name, "export": str(folder)})
    else:
        click.echo(f"{folder}: model.onnx, model.pt2, manifest.json, README.md")
