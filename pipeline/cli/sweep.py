"""`convene sweep`."""

from pathlib import Path

import click

from pipeline.cli.options import common_options
from pipeline.cli.printing import console, show_outcome


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the sweep.  [default: the file's, numbered where it is taken]")
@click.option("--data", help="Overrides data.source: a known name, or a path.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Overrides any value; repeatable.")
@click.option("--trials", type=int, help="Overrides search.trials.")
@click.option("--time-budget", help='Overrides search.time_budget: "300s", "30m", "2h".')
@click.option("--concurrency", type=int, help="Overrides search.concurrency: trials at a time.")
@click.option("--seed", type=int, help="Overrides search.seed.")
@click.option("--address", help="A running Ray cluster.  [default: RAY_ADDRESS, else one on this machine]")
@common_options
def sweep(
    file: Path,
    name: str | None,
    data: str | None,
    sets: tuple[str, ...],
    trials: int | None,
    time_budget: str | None,
    concurrency: int | None,
    seed: int | None,
    address: str | None,
    storage: str,
    as_json: bool,
) -> None:
    """Search the space in FILE, then select, score and export the ensemble."""
    from pipeline import search_space, terminal, workflow

    options = {
        "data.source": data,
        "search.trials": trials,
        "search.time_budget": time_budget,
        "search.concurrency": concurrency,
        "search.seed": seed,
    }
    overrides = dict(map(search_space.parse_override, sets))
    overrides |= {name: value for name, value in options.items() if value is not None}
    search = search_space.read(file, overrides).base.search
    with terminal.LiveView(console(stderr=True), search.objective, search.time_budget) as watch:
        outcome = workflow.run_sweep(
            file, name=name, storage=storage, overrides=overrides, address=address, watch=watch
        )
    show_outcome(outcome, as_json)
