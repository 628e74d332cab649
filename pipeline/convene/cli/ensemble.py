"""`convene ensemble`."""

import click

from convene.cli.options import common_options
from convene.cli.printing import show_result


@click.command()
@click.argument("name")
@click.option("--size", type=int, help="Members, at most.  [default: the sweep's ensemble.size]")
@click.option("--rank-by", help="valid_loss or valid_accuracy.  [default: the sweep's ensemble.rank_by]")
@common_options
def ensemble(name: str, size: int | None, rank_by: str | None, storage: str, as_json: bool) -> None:
    """Redo the final stage of the sweep NAME from its stored logits, without training."""
    from convene.sweep import recorded

    show_result(recorded.rebuild_ensemble(name, storage=storage, size=size, rank_by=rank_by), as_json)
