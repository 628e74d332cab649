"""The command `convene ensemble`."""

import click

from convene.cli.completion import complete_names
from convene.cli.options import common_options
from convene.cli.printing import print_result


@click.command()
@click.argument("name", shell_complete=complete_names)
@click.option("--size", type=int, help="Maximum number of members.  [default: the sweep's ensemble.size]")
@click.option(
    "--rank-by",
    help="What ranks the trials: valid_loss or valid_accuracy.  [default: the sweep's ensemble.rank_by]",
)
@common_options
def ensemble(name: str, size: int | None, rank_by: str | None, storage: str, as_json: bool) -> None:
    """Build the ensemble of a sweep again, without training.

    Repeat the final stage of the sweep NAME on its stored logits: selection, scoring and export. This reads
    the test set again.
    """
    from convene.sweep import recorded_sweep

    print_result(recorded_sweep.rebuild_ensemble(name, storage=storage, size=size, rank_by=rank_by), as_json)
