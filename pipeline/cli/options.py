"""The options of every verb."""

from collections.abc import Callable

import click

STORAGE = "mlruns"


def common_options(verb: Callable[..., None]) -> Callable[..., None]:
    """The options of every verb."""
    verb = click.option(
        "--storage",
        default=STORAGE,
        show_default=True,
        metavar="FOLDER",
        help="Where everything is written and read.",
    )(verb)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")(verb)
