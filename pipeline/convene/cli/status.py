"""The command `convene status`."""

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
    """Show the state of a job on a Ray cluster.

    JOB is the name of a sweep or the id of a job.
    """
    from convene.cluster.jobs import JobServer

    server = JobServer(address)
    found = server.find(job)
    if as_json:
        print_json(asdict(found))
    else:
        click.echo(job_summary(server, found))


def job_summary(server: "JobServer", job: "Job") -> str:
    """Return the state of a job and the commands that apply to it."""
    started = f" since {job.started}" if job.started and not job.has_ended else ""
    ended = f", ended {job.ended}" if job.ended else ""
    code = f" with exit code {job.exit_code}" if job.exit_code else ""
    lines = [f"job {job.id}: {job.state}{code}{started}{ended}"]
    if job.message:
        lines.append(job.message.strip())
    if job.storage:
        lines.append(f"results:  convene show {job.name} --storage {shlex.quote(job.storage)}")
    if not job.has_ended:
        lines += [f"logs:     {server.command('logs', job)}", f"stop:     {server.command('stop', job)}"]
    elif job.state != "SUCCEEDED" and job.reserves_name and job.storage:
        lines.append(f"continue: convene submit {job.name} --address {server.address}")
    return "\n".join(lines)
