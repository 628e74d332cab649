"""`convene logs`, and what `convene submit` shows."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from convene.cli.options import job_options
from convene.cli.printing import print_json
from convene.cli.status import in_words
from convene.errors import Interrupted

if TYPE_CHECKING:
    from convene.cluster.jobs import Job, JobServer


@click.command()
@click.argument("job")
@job_options
def logs(job: str, address: str | None, as_json: bool) -> None:
    """Show the log of a JOB on a Ray cluster and follow it to the end; with --json, the log so far."""
    from convene.cluster.jobs import JobServer

    server = JobServer(address)
    found = server.find(job)
    if as_json:
        print_json(asdict(found) | {"log": server.log(found)})
    else:
        follow(server, found)


def follow(server: "JobServer", job: "Job", *, as_json: bool = False) -> None:
    """Shows a job's log until it ends, and ends with its exit code."""
    log: list[str] = []

    def write(text: str) -> None:
        log.append(text)
        click.echo(text, nl=False, err=as_json)

    try:
        ended = server.follow(job, write)
    except KeyboardInterrupt:
        raise Interrupted(
            f"job {job.id} goes on; follow it: {server.command('logs', job)}\n"
            f"  or stop it: {server.command('stop', job)}"
        ) from None
    if as_json:
        print_json(asdict(ended) | {"result": _result("".join(log))})
    else:
        click.echo(in_words(server, ended), err=True)
    sys.exit(ended.final_exit_code)


def _result(log: str) -> Any:
    """The object that the command on the cluster was told to print; None where it ended without."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                continue
    return None
