"""Sweeps as jobs of a Ray cluster: handed over, told of, followed, stopped."""

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
from convene.config.schema import nearest
from convene.config.search_space import SearchSpace
from convene.errors import ConveneError, InputError, WorkError
from convene.records.sweep_record import SweepRecord, as_name, check_name, numbered
from convene.storage import Storage

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_AWAY_FOR = 60  # seconds that the connection may be away while a log is followed
_AGAIN = "~"  # between a sweep's name and the number of a later job for it; in no sweep's name
_NO_AGENT = (
    "\nits head's agent takes jobs on port 52365, which something else has there, perhaps a sweep of that "
    "machine's own; `ray start --dashboard-agent-listen-port` gives it another"
)
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """A sweep that was handed to a cluster, as far as the cluster knows."""

    name: str
    """Of the sweep."""
    id: str
    """Of the job: the sweep's name, and a number where it went on in another job."""
    state: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None
    """Of the command, once it has ended by itself."""
    started: str | None
    """UTC, ISO 8601."""
    ended: str | None
    storage: str | None
    """The storage root."""
    message: str | None
    """Why the job failed, where it is not the command that says so in the log."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in _ENDED

    @property
    def holds_name(self) -> bool:
        """Whether there may be a sweep of it: what was refused with exit code 2 has left nothing."""
        return not (self.state == "FAILED" and self.exit_code == 2)

    @property
    def outcome(self) -> int:
        """The exit code to end with: the command's own, 130 for a stopped one."""
        if self.exit_code is not None and self.exit_code >= 0:
            return self.exit_code
        return {"SUCCEEDED": 0, "STOPPED": 130}.get(self.state, 1)


@final
class JobServer:
    """The part of a cluster that takes jobs, at the address of its dashboard.

    Raises:
        InputError: if nothing answers at `address` (or RAY_API_SERVER_ADDRESS, or RAY_ADDRESS), or it is no
            Ray cluster, one of another version, or one that asks for another token.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = dashboard.address(address)
        self._client = dashboard.client(self.address)

    def command(self, verb: str, job: Job) -> str:
        """What to type for a verb on a job."""
        return f"convene {verb} {job.id} --address {self.address}"

    def jobs(self) -> list[Job]:
        """All that the cluster knows of, oldest first, but for what was not submitted."""
        listed = [job for job in self._ask(self._client.list_jobs) if job.submission_id]
        return [_job(details) for details in sorted(listed, key=lambda job: job.start_time or 0)]

    def find(self, name: str) -> Job:
        """The last job of a sweep, or the job of an id. Raises InputError where there is none."""
        jobs = self.jobs()
        if found := [job for job in jobs if name in (job.name, job.id)]:
            return found[-1]
        near = nearest(name, sorted({job.name for job in jobs}))
        raise InputError(f"job {name!r}: the cluster at {self.address} has none of that name{near}")

    def submit(
        self, space: SearchSpace, name: str | None, stem: str, storage: str, options: Sequence[str] = ()
    ) -> Job:
        """Hands over a new sweep; its job has its name, by default `stem`, numbered where that is taken.

        Taken is what the cluster has a job of, and what is in the storage, where this machine sees that.
        `options` are those of `convene sweep` that the space does not hold.

        Raises:
            InputError: if the name is taken by another job, or cannot be a sweep's.
        """
        taken = {job.name for job in self.jobs() if job.holds_name}
        name = name or numbered(as_name(stem), lambda name: name in taken or _is_recorded(storage, name))
        check_name(name)
        if name in taken:
            raise InputError(
                f"--name {name}: the cluster has a job of that name ({self.find(name).state}); choose "
                f"another --name, or go on with its sweep: convene submit {name} --address {self.address}"
            )
        words = ["sweep", job_package.SPACE, "--name", name, *options]
        return self._submit(name, words, storage, job_package.at_home(space))

    def resume(self, name: str, verb: str, options: Sequence[str], storage: str | None) -> Job:
        """Hands over the rest of a recorded sweep: `verb` of it, by default where its last job stored.

        `name` is the sweep's, or the id of one of its jobs.

        Raises:
            InputError: if a job is at work on it, or no one says where it is stored.
        """
        every = self.jobs()
        sweep = next((job.name for job in every if name in (job.name, job.id)), name)
        jobs = [job for job in every if job.name == sweep]
        if jobs and not jobs[-1].has_ended:
            raise InputError(
                f"job {jobs[-1].id} is at work on sweep {sweep}; follow it: {self.command('logs', jobs[-1])}"
            )
        storage = storage or next((job.storage for job in reversed(jobs) if job.storage), None)
        if not storage:
            raise InputError(f"sweep {sweep}: the cluster has had no job of that name; say where: --storage")
        return self._submit(sweep, [verb, sweep, *options], storage, None)

    def follow(self, job: Job, write: Callable[[str], None]) -> Job:
        """Writes the job's log from its beginning, as it comes, until the job ends; gives it as it ended.

        Raises:
            WorkError: if the cluster is away for a minute; the job may go on.
        """
        asyncio.run(self._follow(job, write))
        return self._now(job.id)

    def log(self, job: Job) -> str:
        """The log so far."""
        return str(self._ask(lambda: self._client.get_job_logs(job.id)))

    def stop(self, job: Job) -> Job:
        """Ends a job in good order and waits until it has ended; one that has ended is left alone.

        Raises:
            WorkError: if it goes on all the same.
        """
        if not job.has_ended:
            self._ask(lambda: self._client.stop_job(job.id))
        end = time.monotonic() + 2 * job_package.STOP_WITHIN
        while not (now := self._now(job.id)).has_ended:
            if time.monotonic() > end:
                raise WorkError(
                    f"job {job.id}: is still {now.state} {2 * job_package.STOP_WITHIN} s after it was asked"
                )
            time.sleep(0.5)
        return now

    def _now(self, identity: str) -> Job:
        """The job of an id as it is now. Raises InputError where the cluster does not know it any more."""
        found = next((job for job in self.jobs() if job.id == identity), None)
        if found is None:
            raise InputError(f"job {identity}: the cluster at {self.address} does not know it any more")
        return found

    def _submit(self, name: str, words: Sequence[str], storage: str, space: SearchSpace | None) -> Job:
        earlier = {job.id for job in self.jobs()}
        again = (f"{name}{_AGAIN}{number}" for number in itertools.count(2))
        job = next(each for each in itertools.chain([name], again) if each not in earlier)
        with tempfile.TemporaryDirectory(prefix="convene-submit-") as folder:
            job_package.pack(space, Path(folder))
            self._ask(
                lambda: self._client.submit_job(
                    entrypoint=job_package.command([*words, "--storage", storage]),
                    submission_id=job,
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": job_package.environment_variables(os.environ),
                    },
                    metadata={"sweep": name, "storage": storage},
                )
            )
        return self._now(job)

    async def _follow(self, job: Job, write: Callable[[str], None]) -> None:
        log, away_since = Retold(), None
        while True:
            log.begin()
            tail = aiter(self._client.tail_job_logs(job.id))
            while (text := await _next(tail)) is not None:
                write(log.new_in(text))
            try:
                if self._now(job.id).has_ended:
                    log.begin()
                    write(log.new_in(self.log(job)))  # what a lost connection has kept back
                    return
                away_since = None
            except WorkError as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > _AWAY_FOR:
                    raise WorkError(
                        f"the cluster at {self.address} does not answer any more: {error}\n"
                        f"the job may go on; follow it again: {self.command('logs', job)}"
                    ) from None
            await asyncio.sleep(1)

    def _ask(self, question: Callable[[], Any]) -> Any:
        from ray.exceptions import AuthenticationError

        try:
            return question()
        except AuthenticationError:
            raise InputError(auth.refusal(self.address)) from None
        except (OSError, RuntimeError) as error:
            # It may be a traceback of the cluster's, with a full stop behind it.
            said = [line for line in str(error).splitlines() if line.strip(" .")]
            kind = InputError if "already exists" in str(error) else WorkError
            hint = _NO_AGENT if "No available agent" in str(error) else ""
            raise kind(f"the cluster at {self.address}: {said[-1] if said else error!r}{hint}") from None


async def _next(tail: AsyncIterator[str]) -> str | None:
    """What comes next of a log; None at its end, and at that of a connection that was lost."""
    import aiohttp

    with suppress(StopAsyncIteration, aiohttp.ClientError, OSError, RuntimeError):
        return await anext(tail)
    return None


@final
class Retold:
    """What is new of a log that is told again from its beginning after each lost connection."""

    def __init__(self) -> None:
        self._told = self._passed = 0  # characters: in all, and since the beginning this time

    def begin(self) -> None:
        """It is told from its beginning."""
        self._passed = 0

    def new_in(self, text: str) -> str:
        """The part of what comes next that was not told before."""
        new = text[max(0, self._told - self._passed) :]
        self._passed += len(text)
        self._told = max(self._told, self._passed)
        return new


def _is_recorded(storage: str, name: str) -> bool:
    """Whether there is such a sweep, as far as this machine sees the storage."""
    try:
        return SweepRecord(Storage(storage), name).files.exists()
    except (ConveneError, OSError):
        return False


def _job(details: "JobDetails") -> Job:
    metadata = details.metadata or {}
    name, exit_code = metadata.get("sweep"), details.driver_exit_code
    identity = details.submission_id or ""
    return Job(
        name=name or identity,
        id=identity,
        state=str(details.status.value),
        exit_code=exit_code,
        started=_time(details.start_time),
        ended=_time(details.end_time),
        storage=metadata.get("storage"),
        # Where the command failed, its message is the end of the log.
        message=details.message if details.status == "FAILED" and exit_code is None else None,
    )


def _time(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
