"""Options that several commands share."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import click

from convene.environment import DEFAULT_STORAGE


def space_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that override a search space; the command gets `changes`, values by dotted name."""

    @functools.wraps(command)
    def with_changes(*, data: str | None, seed: int | None, sets: tuple[str, ...], **others: Any) -> None:
        from convene.config import search_space

        changes = drop_unset({"data.source": data, "search.seed": seed})
        command(changes=changes | dict(map(search_space.parse_override, sets)), **others)

    for option in (
        click.option("--seed", type=int, help="Override search.seed."),
        click.option(
            "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any value; repeatable."
        ),
        click.option("--data", help="Override data.source: a known name or a path."),
    ):
        with_changes = option(with_changes)
    return with_changes


def resource_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for time and place; the command gets `address` and `resources` by dotted name."""

    @functools.wraps(command)
    def with_resources(*, concurrency: int | None, time_budget: str | None, **others: Any) -> None:
        options = {"search.concurrency": concurrency, "search.time_budget": time_budget}
        command(resources=drop_unset(options), **others)

    for option in (
        click.option(
            "--address", help="A running Ray cluster.  [default: RAY_ADDRESS, else one on this machine]"
        ),
        click.option("--concurrency", type=int, help="Override search.concurrency: trials at a time."),
        click.option("--time-budget", help='Override search.time_budget: "300s", "30m", "2h".'),
    ):
        with_resources = option(with_resources)
    return with_resources


def drop_unset(options: Mapping[str, object]) -> dict[str, Any]:
    """Return the options that have a value."""
    return {name: value for name, value in options.items() if value is not None}


def to_arguments(overrides: Mapping[str, object]) -> list[str]:
    """Return values by dotted name as command-line arguments: `search.time_budget` is `--time-budget`."""
    options = {
        "--" + name.removeprefix("search.").replace("_", "-"): value for name, value in overrides.items()
    }
    return [str(word) for option in options.items() for word in option]


def json_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--json`, an option of every command."""
    return click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")(command)


def job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of commands on a job. There is no `--storage`: the cluster knows it."""
    address = "The cluster's dashboard, http://HEAD:8265.  [default: RAY_ADDRESS]"
    return json_option(click.option("--address", help=address)(command))


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--storage` and `--json`."""
    command = click.option(
        "--storage",
        default=DEFAULT_STORAGE,
        show_default=True,
        metavar="FOLDER",
        help="Storage root, where everything is written and read.",
    )(command)
    return json_option(command)
