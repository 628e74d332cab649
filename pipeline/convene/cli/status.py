"""`convene status`."""

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from convene.cli.options import job_options
from convene.cli.printing import print_json

if TYPE_CHECKING:
    from convene.cluster.jobs import Job, JobServer


@click.command()
@click.argument("job")
@job_options
def status(job: str, address: str | None, as_json: bool) -> None:
    """Say how a JOB on a Ray cluster stands; its name is that of its sweep."""
    from convene.cluster.jobs import JobServer

    server = JobServer(address)
    found = server.find(job)
    if as_json:
        print_json(asdict(found))
    else:
        click.echo(in_words(server, found))


def in_words(server: "JobServer", job: "Job") -> str:
    """How a job stands, and the way on."""
    since = f" since {job.started}" if job.started and not job.has_ended else ""
    at = f", {job.ended}" if job.ended else ""
    code = f" with exit code {job.exit_code}" if job.exit_code else ""
    lines = [f"job {job.id}: {job.state}{code}{since}{at}"]
    if job.message:
        lines.append(job.message.strip())
    if job.storage:
        lines.append(f"look at it: convene show {job.name} --storage {shlex.quote(job.storage)}")
    if not job.has_ended:
        lines += [f"follow it:  {server.command('logs', job)}", f"stop it:    {server.command('stop', job)}"]
    elif job.state != "SUCCEEDED" and job.reserves_name and job.storage:
        lines.append(f"go on with: convene submit {job.name} --address {server.address}")
    return "\n".join(lines)
