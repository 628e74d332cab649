"""`convene stop`."""

from dataclasses import asdict

import click

from convene.cli.options import job_options
from convene.cli.printing import print_json
from convene.cli.status import in_words


@click.command()
@click.argument("job")
@job_options
def stop(job: str, address: str | None, as_json: bool) -> None:
    """End a JOB on a Ray cluster in good order; `convene submit` with its name goes on with its sweep."""
    from convene.cluster.jobs import JobServer

    server = JobServer(address)
    ended = server.stop(server.find(job))
    if as_json:
        print_json(asdict(ended))
    else:
        click.echo(in_words(server, ended))
