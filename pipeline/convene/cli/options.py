"""The options that several verbs share."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import click

from convene.environment import DEFAULT_STORAGE


def space_options(verb: Callable[..., None]) -> Callable[..., None]:
    """What changes a search-space file; reaches the verb as `changes`, values by dotted name."""

    @functools.wraps(verb)
    def with_changes(*, data: str | None, seed: int | None, sets: tuple[str, ...], **others: Any) -> None:
        from convene.config import search_space

        changes = given({"data.source": data, "search.seed": seed})
        verb(changes=changes | dict(map(search_space.parse_override, sets)), **others)

    for option in (
        click.option("--seed", type=int, help="Overrides search.seed."),
        click.option(
            "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Overrides any value; repeatable."
        ),
        click.option("--data", help="Overrides data.source: a known name, or a path."),
    ):
        with_changes = option(with_changes)
    return with_changes


def resource_options(verb: Callable[..., None]) -> Callable[..., None]:
    """What a run of trials may take, and where; reaches the verb as `resources`, values by dotted name."""

    @functools.wraps(verb)
    def with_resources(*, concurrency: int | None, time_budget: str | None, **others: Any) -> None:
        said = {"search.concurrency": concurrency, "search.time_budget": time_budget}
        verb(resources=given(said), **others)

    for option in (
        click.option(
            "--address", help="A running Ray cluster.  [default: RAY_ADDRESS, else one on this machine]"
        ),
        click.option("--concurrency", type=int, help="Overrides search.concurrency: trials at a time."),
        click.option("--time-budget", help='Overrides search.time_budget: "300s", "30m", "2h".'),
    ):
        with_resources = option(with_resources)
    return with_resources


def given(options: Mapping[str, object]) -> dict[str, Any]:
    """The options that were said, by dotted name."""
    return {name: value for name, value in options.items() if value is not None}


def words_of(overrides: Mapping[str, object]) -> list[str]:
    """The words of a command line that say so: `search.time_budget` is `--time-budget`."""
    said = {"--" + name.removeprefix("search.").replace("_", "-"): value for name, value in overrides.items()}
    return [str(word) for option in said.items() for word in option]


def json_option(verb: Callable[..., None]) -> Callable[..., None]:
    """`--json`, of every verb."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")(verb)


def job_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Of the verbs on a job: what there is of it, its cluster knows."""
    address = "The cluster's dashboard, http://HEAD:8265.  [default: RAY_ADDRESS]"
    return json_option(click.option("--address", help=address)(verb))


def common_options(verb: Callable[..., None]) -> Callable[..., None]:
    """The options of every verb."""
    verb = click.option(
        "--storage",
        default=DEFAULT_STORAGE,
        show_default=True,
        metavar="FOLDER",
        help="Where everything is written and read.",
    )(verb)
    return json_option(verb)
