"""The command `convene stop`."""

from dataclasses import asdict

import click

from convene.cli.options import job_options
from convene.cli.printing import print_json
from convene.cli.status import job_summary


@click.command()
@click.argument("job")
@job_options
def stop(job: str, address: str | None, as_json: bool) -> None:
    """Stop a job on a Ray cluster cleanly.

    JOB is the name of a sweep or the id of a job. `convene submit NAME` continues its sweep later.
    """
    from convene.cluster.jobs import JobServer

    server = JobServer(address)
    ended = server.stop(server.find(job))
    if as_json:
        print_json(asdict(ended))
    else:
        click.echo(job_summary(server, ended))
