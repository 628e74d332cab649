"""The command `convene logs`, and the log that `convene submit` follows."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from convene.cli.options import job_options
from convene.cli.printing import print_json
from convene.cli.status import job_summary
from convene.errors import Interrupted

if TYPE_CHECKING:
    from convene.cluster.jobs import Job, JobServer


@click.command()
@click.argument("job")
@job_options
def logs(job: str, address: str | None, as_json: bool) -> None:
    """Follow the log of a job on a Ray cluster.

    JOB is the name of a sweep or the id of a job. The exit code is that of the job. With --json, print the
    log so far and exit.
    """
    from convene.cluster.jobs import JobServer

    server = JobServer(address)
    found = server.find(job)
    if as_json:
        print_json(asdict(found) | {"log": server.log(found)})
    else:
        follow(server, found)


def follow(server: "JobServer", job: "Job", *, as_json: bool = False) -> None:
    """Print a job's log until the job ends, then exit with its exit code."""
    log: list[str] = []

    def write(text: str) -> None:
        log.append(text)
        click.echo(text, nl=False, err=as_json)

    try:
        ended = server.follow(job, write)
    except KeyboardInterrupt:
        raise Interrupted(
            f"job {job.id} continues on the cluster\n"
            f"logs:     {server.command('logs', job)}\n"
            f"stop:     {server.command('stop', job)}"
        ) from None
    if as_json:
        print_json(asdict(ended) | {"result": _printed_result("".join(log))})
    else:
        click.echo(job_summary(server, ended), err=True)
    sys.exit(ended.final_exit_code)


def _printed_result(log: str) -> Any:
    """Return the JSON object that the job printed, or None if it ended without one."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                continue
    return None
