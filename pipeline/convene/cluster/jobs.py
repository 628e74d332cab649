"""Sweeps as jobs on a Ray cluster: submit, list, follow, stop."""

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from convene.cluster import auth, dashboard, job_package
from convene.config.search_space import SearchSpace
from convene.config.validation import suggestion
from convene.errors import ConveneError, InputError, WorkError
from convene.records.sweep_name import as_name, check_name, numbered
from convene.records.sweep_record import SweepRecord
from convene.storage import Storage

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

# Seconds for the cluster to be reachable again while a log is followed.
_RECONNECT_SECONDS = 60
# Between a sweep's name and the number of a later job for it. Not allowed in the name of a sweep.
_NUMBER_SEPARATOR = "~"
_NO_AGENT_HINT = (
    "\nthe agent of its head accepts jobs on port 52365, which another process uses, perhaps a sweep on that "
    "machine; choose another port with `ray start --dashboard-agent-listen-port`"
)
_FINAL_STATES = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """A sweep that was submitted to a cluster, as the cluster reports it."""

    name: str
    """The sweep's name."""
    id: str
    """The job's id: the sweep's name, with a number if an earlier job had it."""
    state: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None
    """The command's exit code, if it has ended by itself."""
    started: str | None
    """UTC, ISO 8601."""
    ended: str | None
    storage: str | None
    """The storage root."""
    message: str | None
    """Why the job failed, unless the command itself wrote that to the log."""

    @property
    def has_ended(self) -> bool:
        """Return whether the job's state is final."""
        return self.state in _FINAL_STATES

    @property
    def reserves_name(self) -> bool:
        """Return whether a sweep may exist under the job's name. After exit code 2 it does not."""
        return not (self.state == "FAILED" and self.exit_code == 2)

    @property
    def final_exit_code(self) -> int:
        """Return the exit code for a client of the job: the command's own, or 130 if it was stopped."""
        if self.exit_code is not None and self.exit_code >= 0:
            return self.exit_code
        return {"SUCCEEDED": 0, "STOPPED": 130}.get(self.state, 1)


@final
class JobServer:
    """The job server of a cluster, at the address of its dashboard.

    Raises:
        InputError: if nothing answers at `address` (or RAY_API_SERVER_ADDRESS, or RAY_ADDRESS), or not a Ray
            cluster; if its version differs; or if it rejects our token.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = dashboard.resolve_address(address)
        self._client = dashboard.client(self.address)

    def command(self, name: str, job: Job) -> str:
        """Return the shell command that runs `convene NAME` on a job."""
        return f"convene {name} {job.id} --address {self.address}"

    def jobs(self) -> list[Job]:
        """Return all submitted jobs that the cluster knows, oldest first."""
        details = [job for job in self._request(self._client.list_jobs) if job.submission_id]
        return [_from_details(job) for job in sorted(details, key=lambda job: job.start_time or 0)]

    def find(self, name: str) -> Job:
        """Return the latest job of a sweep, or the job with an id. Raise InputError if it is not found."""
        jobs = self.jobs()
        if found := [job for job in jobs if name in (job.name, job.id)]:
            return found[-1]
        hint = suggestion(name, sorted({job.name for job in jobs}))
        raise InputError(f"job {name!r}: not found on the cluster at {self.address}{hint}")

    def submit(
        self, space: SearchSpace, name: str | None, stem: str, storage: str, options: Sequence[str] = ()
    ) -> Job:
        """Submit a new sweep as a job. Both are called `name`, by default `stem`, numbered if it is taken.

        A name is taken if the cluster has a job for it, or if the storage has such a sweep and is visible on
        this machine. `options` are options of `convene sweep` that the space does not contain.

        Raises:
            InputError: if the name is taken by another job, or not allowed for a sweep.
        """
        taken = {job.name for job in self.jobs() if job.reserves_name}
        name = name or numbered(as_name(stem), lambda name: name in taken or _is_recorded(storage, name))
        check_name(name)
        if name in taken:
            raise InputError(
                f"--name {name}: the cluster already has a job with this name ({self.find(name).state}); "
                f"choose another --name, or continue its sweep: "
                f"convene submit {name} --address {self.address}"
            )
        arguments = ["sweep", job_package.SEARCH_SPACE_FILE, "--name", name, *options]
        return self._submit(name, arguments, storage, job_package.resolve_data_path(space))

    def resume(self, name: str, command: str, options: Sequence[str], storage: str | None) -> Job:
        """Submit the rest of a recorded sweep as a job.

        Args:
            name: the sweep, or the id of one of its jobs.
            command: the command of `convene` that continues it.
            options: options of the command.
            storage: the storage root, by default that of the sweep's last job.

        Raises:
            InputError: if a job of this sweep has not ended, or the storage root is unknown.
        """
        all_jobs = self.jobs()
        sweep = next((job.name for job in all_jobs if name in (job.name, job.id)), name)
        jobs = [job for job in all_jobs if job.name == sweep]
        if jobs and not jobs[-1].has_ended:
            raise InputError(
                f"sweep {sweep}: job {jobs[-1].id} has not ended; follow it: {self.command('logs', jobs[-1])}"
            )
        storage = storage or next((job.storage for job in reversed(jobs) if job.storage), None)
        if not storage:
            raise InputError(
                f"sweep {sweep}: the cluster has no job with this name; give its storage root: --storage"
            )
        return self._submit(sweep, [command, sweep, *options], storage, None)

    def follow(self, job: Job, write: Callable[[str], None]) -> Job:
        """Write the job's log from the beginning until the job ends, and return the ended job.

        Raises:
            WorkError: if the cluster is not reachable for a minute; the job may still be running.
        """
        asyncio.run(self._follow(job, write))
        return self._refreshed(job.id)

    def log(self, job: Job) -> str:
        """Return the log so far."""
        return str(self._request(lambda: self._client.get_job_logs(job.id)))

    def stop(self, job: Job) -> Job:
        """Stop a job gracefully and wait until it has ended. Leave an ended job alone.

        Raises:
            WorkError: if it does not end.
        """
        if not job.has_ended:
            self._request(lambda: self._client.stop_job(job.id))
        timeout = 2 * job_package.STOP_SECONDS
        deadline = time.monotonic() + timeout
        while not (now := self._refreshed(job.id)).has_ended:
            if time.monotonic() > deadline:
                raise WorkError(f"job {job.id}: still {now.state} {timeout} s after the request to stop")
            time.sleep(0.5)
        return now

    def _refreshed(self, job_id: str) -> Job:
        """Return the job as it is now. Raise InputError if the cluster has forgotten it."""
        job = next((job for job in self.jobs() if job.id == job_id), None)
        if job is None:
            raise InputError(f"job {job_id}: no longer known to the cluster at {self.address}")
        return job

    def _submit(self, name: str, arguments: Sequence[str], storage: str, space: SearchSpace | None) -> Job:
        used = {job.id for job in self.jobs()}
        numbered_ids = (f"{name}{_NUMBER_SEPARATOR}{number}" for number in itertools.count(2))
        job_id = next(job_id for job_id in itertools.chain([name], numbered_ids) if job_id not in used)
        with tempfile.TemporaryDirectory(prefix="convene-submit-") as folder:
            job_package.build_working_dir(space, Path(folder))
            self._request(
                lambda: self._client.submit_job(
                    entrypoint=job_package.entrypoint([*arguments, "--storage", storage]),
                    submission_id=job_id,
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": job_package.environment_variables(os.environ),
                    },
                    metadata={"sweep": name, "storage": storage},
                )
            )
        return self._refreshed(job_id)

    async def _follow(self, job: Job, write: Callable[[str], None]) -> None:
        log, unreachable_since = LogReader(), None
        while True:
            log.restart()
            tail = aiter(self._client.tail_job_logs(job.id))
            while (text := await _next_text(tail)) is not None:
                write(log.new_text(text))
            try:
                if self._refreshed(job.id).has_ended:
                    log.restart()
                    write(log.new_text(self.log(job)))  # the part that a lost connection has missed
                    return
                unreachable_since = None
            except WorkError as error:
                unreachable_since = unreachable_since or time.monotonic()
                if time.monotonic() - unreachable_since > _RECONNECT_SECONDS:
                    raise WorkError(
                        f"the cluster at {self.address} no longer answers: {error}\n"
                        f"the job may still be running; follow it again: {self.command('logs', job)}"
                    ) from None
            await asyncio.sleep(1)

    def _request(self, call: Callable[[], Any]) -> Any:
        """Return the result of a call of Ray's client. Raise InputError or WorkError with its last line."""
        from ray.exceptions import AuthenticationError

        try:
            return call()
        except AuthenticationError:
            raise InputError(auth.token_error(self.address)) from None
        except (OSError, RuntimeError) as error:
            # It may contain a traceback from the cluster, followed by a line with only a full stop.
            lines = [line for line in str(error).splitlines() if line.strip(" .")]
            kind = InputError if "already exists" in str(error) else WorkError
            hint = _NO_AGENT_HINT if "No available agent" in str(error) else ""
            raise kind(f"the cluster at {self.address}: {lines[-1] if lines else error!r}{hint}") from None


async def _next_text(tail: AsyncIterator[str]) -> str | None:
    """Return the next part of a log, or None at its end or if the connection is lost."""
    import aiohttp

    with suppress(StopAsyncIteration, aiohttp.ClientError, OSError, RuntimeError):
        return await anext(tail)
    return None


@final
class LogReader:
    """The new text of a log that starts from its beginning again after each lost connection."""

    def __init__(self) -> None:
        self._returned = 0  # characters returned in total
        self._position = 0  # characters read since the last restart

    def restart(self) -> None:
        """Continue reading at the log's beginning."""
        self._position = 0

    def new_text(self, text: str) -> str:
        """Return the part of the log's next `text` that was not returned before."""
        new = text[max(0, self._returned - self._position) :]
        self._position += len(text)
        self._returned = max(self._returned, self._position)
        return new


def _is_recorded(storage: str, name: str) -> bool:
    """Return whether the sweep exists, if its storage is visible on this machine."""
    try:
        return SweepRecord(Storage(storage), name).files.exists()
    except (ConveneError, OSError):
        return False


def _from_details(details: "JobDetails") -> Job:
    metadata = details.metadata or {}
    name, exit_code = metadata.get("sweep"), details.driver_exit_code
    job_id = details.submission_id or ""
    return Job(
        name=name or job_id,
        id=job_id,
        state=str(details.status.value),
        exit_code=exit_code,
        started=_iso_time(details.start_time),
        ended=_iso_time(details.end_time),
        storage=metadata.get("storage"),
        # If the command itself failed, its message is at the end of the log.
        message=details.message if details.status == "FAILED" and exit_code is None else None,
    )


def _iso_time(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
