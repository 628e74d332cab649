"""The command `convene show`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from convene.cli.completion import complete_names
from convene.cli.options import common_options
from convene.cli.printing import console, print_json, print_view

# The options of each kind of picture.
_OPTIONS = {
    "samples": ("seed", "to"),
    "filters": ("trial", "ensemble", "layer", "channel", "to"),
    "features": ("trial", "ensemble", "layer", "image", "to"),
    "errors": ("trial", "ensemble", "to"),
    "confusion": ("trial", "ensemble", "to"),
    "predict": ("trial", "ensemble", "image", "seed", "to"),
}


@click.command()
@click.argument("name", shell_complete=complete_names)
@click.argument("kind", required=False, type=click.Choice(list(_OPTIONS)), metavar="[KIND]")
@click.option("--trial", type=int, help="Show this trial.")
@click.option("--ensemble", is_flag=True, help="Show the ensemble.")
@click.option(
    "--layer", type=int, help="For filters, features: a layer, from 1.  [default: the first two; all]"
)
@click.option("--channel", type=int, help="For filters: an input channel, from 0.  [default: 0]")
@click.option(
    "--image",
    multiple=True,
    metavar="INDEX|FILE",
    help="For features, predict: a validation image or file; repeatable.  [default: the first; 6 at random]",
)
@click.option("--seed", type=click.IntRange(min=0), help="For samples, predict: seed of the random images.")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="Folder for the files.  [default: the sweep's pictures folder]",
)
@common_options
def show(name: str, kind: str | None, storage: str, as_json: bool, **options: Any) -> None:
    """Show the leaderboard of a sweep, or draw pictures.

    Without KIND, show the leaderboard, members and scores of the sweep NAME. With KIND, write PNG files:

    \b
    samples    images of each class
    filters    weights of the convolutions
    features   output of each layer for an image
    errors     the errors with the highest confidence
    confusion  which class is mistaken for which
    predict    predictions and probabilities

    All images are validation images, or files given with --image. Pictures show the ensemble; filters and
    features show one network, by default the best single trial.
    """  # noqa: D301  # click reads the backspace character
    _check_options(kind, options)
    if kind is None:
        from convene.records import listing

        print_view(listing.view(name, storage), as_json)
        return

    from convene.cli import terminal
    from convene.visualization import gallery
    from convene.visualization.views import ViewOptions

    to, images, seed = options.pop("to"), options.pop("image"), options.pop("seed")
    saved = gallery.save_pictures(
        name, kind, ViewOptions(images=images, seed=seed or 0, **options), storage=storage, to=to
    )
    if as_json:
        content = {
            "name": name,
            "what": kind,
            "of": saved.source,
            "files": saved.files,
            "logged": saved.logged,
        }
        print_json(content | saved.numbers)
        return
    out = console()
    for part in terminal.view_summary(kind, saved.numbers, out):
        out.print(part)
    for file in saved.files:
        click.echo(file)


def _check_options(kind: str | None, options: Mapping[str, Any]) -> None:
    """Raise UsageError if an option does not apply to the kind of picture."""
    for option, value in options.items():
        is_set = value is not None and value is not False and value != ()
        if is_set and option not in _OPTIONS.get(kind or "", ()):
            kinds = [kind for kind, allowed in _OPTIONS.items() if option in allowed]
            raise click.UsageError(f"--{option}: applies only to {', '.join(kinds)}")
    if options["trial"] is not None and options["ensemble"]:
        raise click.UsageError("--trial and --ensemble: cannot be combined")
