"""The options of every verb."""

from collections.abc import Callable, Mapping
from typing import Any

import click

STORAGE = "mlruns"


def resource_options(verb: Callable[..., None]) -> Callable[..., None]:
    """What a run of trials may take, where, and how long."""
    for option in (
        click.option(
            "--address", help="A running Ray cluster.  [default: RAY_ADDRESS, else one on this machine]"
        ),
        click.option("--concurrency", type=int, help="Overrides search.concurrency: trials at a time."),
        click.option("--time-budget", help='Overrides search.time_budget: "300s", "30m", "2h".'),
    ):
        verb = option(verb)
    return verb


def given(options: Mapping[str, object]) -> dict[str, Any]:
    """The options that were said, by dotted name."""
    return {name: value for name, value in options.items() if value is not None}


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
