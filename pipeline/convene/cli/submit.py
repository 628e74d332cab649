"""The command `convene submit`."""

from pathlib import Path
from typing import Any

import click

from convene.cli.completion import complete_files_and_names
from convene.cli.logs import follow
from convene.cli.options import drop_unset, json_option, resource_options, space_options, to_arguments
from convene.cli.sweep import trial_count
from convene.errors import InputError


@click.command()
@click.argument(
    "file",
    metavar="FILE|NAME",
    type=click.Path(path_type=Path),
    shell_complete=complete_files_and_names,
)
@click.option("--name", help="Name of the sweep and its job.  [default: from FILE, numbered if taken]")
@click.option("--trials", metavar="N|+N", help="Override search.trials; +16 adds 16 to the sweep NAME.")
@space_options
@resource_options
@click.option(
    "--storage",
    metavar="FOLDER",
    help="Storage root, which every node can reach.  [default for NAME: the one of its last job]",
)
@json_option
def submit(
    file: Path,
    name: str | None,
    trials: str | None,
    changes: dict[str, Any],
    resources: dict[str, Any],
    address: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Run a sweep as a job on a Ray cluster.

    Submit the search space FILE as a new sweep, or continue the sweep NAME, and follow the log of the job.
    The job does not depend on this command, which may be interrupted. --address is that of the cluster's
    dashboard, http://HEAD:8265.
    """
    from convene.cluster import job_package
    from convene.cluster.jobs import JobServer
    from convene.config import search_space

    count = trial_count(trials)
    root = job_package.resolve_storage(storage) if storage else None
    json_argument = ["--json"] if as_json else []
    more = trials is not None and trials.startswith("+")
    if (file.exists() and not file.is_dir()) or file.suffix == ".toml":
        if more:
            raise InputError(f"--trials {trials}: adds to an existing sweep; pass its name instead of {file}")
        if not root:
            raise InputError(
                "--storage: required with a search-space file: a folder or address that every node can reach"
            )
        overrides = changes | resources | drop_unset({"search.trials": count})
        space = search_space.read(file, overrides)
        server = JobServer(address)
        job = server.submit(space, name, file.stem, root, json_argument)
    else:
        if name or changes or (trials and not more):
            raise InputError(
                f"{file}: no such file; an existing sweep keeps its name, data, space and seed, and its "
                "--trials can only be +N"
            )
        arguments = to_arguments(resources | drop_unset({"search.trials": trials}))
        server = JobServer(address)
        job = server.resume(str(file), "sweep" if more else "resume", [*arguments, *json_argument], root)
    if not as_json:
        click.echo(f"job {job.id} at {server.address}; it continues if this command is interrupted", err=True)
    follow(server, job, as_json=as_json)
