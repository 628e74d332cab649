"""`convene show`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from convene.cli.options import common_options
from convene.cli.printing import console, print_json, show_view

# What each kind of picture can be told.
_TAKES = {
    "samples": ("seed", "to"),
    "filters": ("trial", "ensemble", "layer", "channel", "to"),
    "features": ("trial", "ensemble", "layer", "image", "to"),
    "errors": ("trial", "ensemble", "to"),
    "confusion": ("trial", "ensemble", "to"),
    "predict": ("trial", "ensemble", "image", "seed", "to"),
}


@click.command()
@click.argument("name")
@click.argument("what", required=False, type=click.Choice(list(_TAKES)), metavar="[WHAT]")
@click.option("--trial", type=int, help="Of this trial.")
@click.option("--ensemble", is_flag=True, help="Of the ensemble.")
@click.option(
    "--layer", type=int, help="filters, features: this layer, from 1.  [default: the first two; all]"
)
@click.option("--channel", type=int, help="filters: of this input channel, from 0.  [default: 0]")
@click.option(
    "--image",
    multiple=True,
    metavar="INDEX|FILE",
    help="features, predict: a validation image, or a file; repeatable.  [default: the first; six at random]",
)
@click.option("--seed", type=click.IntRange(min=0), help="samples, predict: of what is drawn at random.")
@click.option(
    "--to", type=click.Path(path_type=Path), help="Folder for the files.  [default: the sweep's pictures]"
)
@common_options
def show(name: str, what: str | None, storage: str, as_json: bool, **wishes: Any) -> None:
    """Show the sweep NAME: its leaderboard, members and scores; or pictures of it, as PNG files.

    WHAT is samples, filters, features, errors, confusion or predict. All images are validation images, or
    files. Pictures are of the ensemble, or of the best single trial where they are those of one network.
    """
    _check_wishes(what, wishes)
    if what is None:
        from convene.records import listing

        show_view(listing.view(name, storage), as_json)
        return

    from convene.cli import terminal
    from convene.visualization import gallery
    from convene.visualization.views import ViewOptions

    to, images, seed = wishes.pop("to"), wishes.pop("image"), wishes.pop("seed")
    saved = gallery.save_pictures(
        name, what, ViewOptions(images=images, seed=seed or 0, **wishes), storage=storage, to=to
    )
    if as_json:
        content = {
            "name": name,
            "what": what,
            "of": saved.source,
            "files": saved.files,
            "logged": saved.logged,
        }
        print_json(content | saved.numbers)
        return
    out = console()
    for part in terminal.exhibit(what, saved.numbers, out):
        out.print(part)
    for file in saved.files:
        click.echo(file)


def _check_wishes(what: str | None, wishes: Mapping[str, Any]) -> None:
    for option, value in wishes.items():
        was_said = value is not None and value is not False and value != ()
        if was_said and option not in _TAKES.get(what or "", ()):
            kinds = [kind for kind, options in _TAKES.items() if option in options]
            raise click.UsageError(f"--{option}: is for {', '.join(kinds)}")
    if wishes["trial"] is not None and wishes["ensemble"]:
        raise click.UsageError("--trial and --ensemble: one of them")
