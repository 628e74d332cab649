"""`convene submit`."""

from pathlib import Path
from typing import Any

import click

from convene.cli.logs import follow
from convene.cli.options import given, json_option, resource_options, space_options, words_of
from convene.cli.sweep import trial_count
from convene.errors import InputError


@click.command()
@click.argument("file", metavar="FILE|NAME", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the sweep and its job.  [default: the file's, numbered where taken]")
@click.option("--trials", metavar="N|+N", help="Overrides search.trials; +16 adds 16 to the sweep NAME.")
@space_options
@resource_options
@click.option(
    "--storage",
    metavar="FOLDER",
    help="Where everything is written and read; every node must see it.  [default: of NAME, as it was]",
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
    """Hand the sweep of FILE to a Ray cluster, or what is left of the sweep NAME, and follow its log.

    The cluster runs it without this command, which may be interrupted. Its dashboard takes it, at
    --address http://HEAD:8265.
    """
    from convene.cluster import job_package
    from convene.cluster.jobs import JobServer
    from convene.config import search_space

    count = trial_count(trials)
    root = job_package.resolve_storage(storage) if storage else None
    as_told = ["--json"] if as_json else []
    more = trials is not None and trials.startswith("+")
    if (file.exists() and not file.is_dir()) or file.suffix == ".toml":
        if more:
            raise InputError(f"--trials {trials}: adds to a sweep, which is given by its name, not by {file}")
        if not root:
            raise InputError(
                "--storage: say where: a folder or an address that every node of the cluster sees"
            )
        overrides = changes | resources | given({"search.trials": count})
        space = search_space.read(file, overrides)
        server = JobServer(address)
        job = server.submit(space, name, file.stem, root, as_told)
    else:
        if name or changes or (trials and not more):
            raise InputError(
                f"{file}: there is no such file; and a sweep keeps its name, data, space and seed: of the "
                "options that change them only --trials +N is for one that was begun"
            )
        words = words_of(resources | given({"search.trials": trials}))
        server = JobServer(address)
        job = server.resume(str(file), "sweep" if more else "resume", [*words, *as_told], root)
    if not as_json:
        click.echo(f"job {job.id} at {server.address}; it goes on also without this command", err=True)
    follow(server, job, as_json=as_json)
