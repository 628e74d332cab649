"""Background writes to MLflow that never delay training."""

import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import final

from convene.environment import ANSWER_SECONDS
from convene.errors import InputError
from convene.records.result import SweepResult
from convene.records.sweep_record import EXPORT, SweepRecord
from convene.records.trials import Standing, TrialView
from convene.storage import Storage
from convene.tracking import experiment
from convene.tracking.experiment import TrackingLocation
from convene.tracking.sweep_runs import SweepRuns

logger = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 15.0
_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
_TRANSIENT = (401, 408, 429)  # HTTP statuses: expired login, timeout, too many requests
_BATCH_SECONDS = 0.5  # time in which changes are collected before they are written


def tracking_location(storage: Storage) -> TrackingLocation:
    """Return the location that `MLFLOW_TRACKING_URI` names, or else SQLite under the storage root.

    Raises:
        InputError: if the server does not answer or requires a login, if the database cannot be opened, or if
            the variable is not set and the storage root is not a folder.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # the tracker reports errors itself, once
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # The tracker retries by itself, and the end of a sweep must not wait for an unavailable server.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and not storage.is_local:
        raise InputError(
            f"storage = {storage.root}: cannot hold MLflow's database; set MLFLOW_TRACKING_URI to a server"
        )
    if not uri:
        # SQLAlchemy parses the path as part of a URL; only these two characters need escaping.
        database = str(storage.local("mlflow.db")).replace("%", "%25").replace("?", "%3F")
        return TrackingLocation(f"sqlite:///{database}", storage.local("artifacts").as_uri())
    location = TrackingLocation(uri, None)
    if location.is_server:
        _check_server(location.redacted_uri)
    _check_access(location)
    return location


def _check_server(address: str) -> None:
    """Raise InputError if the server does not answer. MLflow's own client would take much longer."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=ANSWER_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # it answers; behind a login, this page may be refused
    except (OSError, ValueError) as error:
        raise InputError(f"MLFLOW_TRACKING_URI = {address}: the server does not answer: {error}") from None


def _check_access(location: TrackingLocation) -> None:
    """Raise InputError if MLflow's client cannot read from the location."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        with experiment.database_lock(location.uri):
            MlflowClient(location.uri).search_experiments(max_results=1)
    except Exception as error:  # each kind of store raises its own type
        setting = f"MLFLOW_TRACKING_URI = {location.redacted_uri}"
        code = error.error_code if isinstance(error, MlflowException) else ""
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            has_login = _LOGIN[0] in os.environ or location.redacted_uri != location.uri
            problem = "rejects this login" if has_login else "requires a login"
            raise InputError(f"{setting}: the server {problem}; set {_LOGIN[0]} and {_LOGIN[1]}") from None
        raise InputError(f"{setting}: cannot be opened: {experiment.first_line(error)}") from None


@final
class Tracker:
    """A queue of writes to a sweep's MLflow runs. Methods return at once; a thread writes.

    Each write covers a whole trial, and the thread adds what MLflow is missing. So a failed write can be
    repeated without duplicates, and a record that MLflow rejects does not block the others. Leaving the
    context waits for pending writes, but not for an unavailable MLflow.

    Args:
        runs: the writer of the sweep's runs; only the thread writes with it.
        end_on_error: whether an exception inside the context ends the sweep's run as failed.
    """

    def __init__(self, runs: SweepRuns, *, end_on_error: bool = True) -> None:
        self.waiting = 0
        """Writes that are still pending after the context."""
        self._end_on_error = end_on_error
        self._runs = runs
        self._pending: dict[int | str, Callable[[], None]] = {}
        self._rejected: dict[int | str, Callable[[], None]] = {}
        """Writes that MLflow rejected; they are tried once more at the end."""
        self._reported: set[int | str] = set()
        """Rejected writes that were logged."""
        self._changed = threading.Condition()
        self._closing = self._unavailable = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def __enter__(self) -> "Tracker":
        self._put("sweep", self._runs.log_sweep)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind and self._end_on_error:
            self.end("KILLED" if issubclass(kind, KeyboardInterrupt | SystemExit) else "FAILED")
        with self._changed:
            self._pending |= self._rejected
            self._rejected.clear()
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self.waiting = len(self._pending) + len(self._rejected)

    def log_trial(self, view: TrialView) -> None:
        """Queue a trial. This replaces an older view of it that is still pending."""
        self._put(view.number, lambda: self._runs.log_trial(view))

    def log_result(self, result: SweepResult, record: SweepRecord, tags: Mapping[str, str]) -> None:
        """Queue the ensemble, the scores, and the sweep's files and tags; then end the sweep's run."""

        def log_ensemble() -> None:
            with record.files.local_copy(EXPORT) as export:
                self._runs.log_ensemble(result.scores, export)

        def end() -> None:
            with ExitStack() as stack:
                files = tuple(stack.enter_context(record.files.local_copy(file)) for file in record.artifacts)
                self._runs.end_sweep("FINISHED", result, files, tags)

        self._put("ensemble", log_ensemble)
        self._put("end", end)

    def log_standings(self, views: Sequence[TrialView], standings: Mapping[int, Standing]) -> None:
        """Queue the ranks and weights of the trials, once all have ended."""
        self._put("standings", lambda: self._runs.log_standings(views, standings))

    def end(self, status: str) -> None:
        """Queue the end of the sweep's run, without a result."""
        self._put("end", lambda: self._runs.end_sweep(status))

    @property
    def uri(self) -> str:
        """Return MLflow's tracking URI, without credentials."""
        return self._runs.location.redacted_uri

    @property
    def run_id(self) -> str | None:
        """Return the sweep's own run, or None until it is written."""
        return self._runs.run_id

    def trial_run_ids(self) -> dict[int, str]:
        """Return the run id of each trial that was written."""
        return self._runs.trial_run_ids()

    def flush(self) -> None:
        """Wait until nothing is pending, or MLflow is unavailable."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or self._unavailable)

    def _put(self, key: int | str, write: Callable[[], None]) -> None:
        with self._changed:
            self._rejected.pop(key, None)
            self._pending.pop(key, None)  # moves the key to the end: writes are in order of the last change
            self._pending[key] = write
            self._changed.notify_all()

    def _work(self) -> None:
        pause = _FIRST_RETRY_SECONDS
        while batch := self._next_batch():
            if self._write(batch):
                pause = _FIRST_RETRY_SECONDS
                continue
            with self._changed:
                if self._closing:
                    return
                self._changed.wait_for(lambda: self._closing, timeout=pause)
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    def _next_batch(self) -> list[tuple[int | str, Callable[[], None]]]:
        """Wait for pending writes and return them; return nothing once closed and done."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            # A very short trial is then written once, not at its start, each epoch and its end.
            self._changed.wait_for(lambda: self._closing, timeout=_BATCH_SECONDS)
            return list(self._pending.items())

    def _write(self, batch: list[tuple[int | str, Callable[[], None]]]) -> bool:
        """Write a batch, and return whether MLflow was available for all of it."""
        for key, write in batch:
            if self._pending.get(key) is not write:
                continue  # a newer view of the trial replaced it
            try:
                write()
            except Exception as error:  # no failure of a database or server may stop a sweep
                self._runs.forget()
                # All other runs are children of the sweep's own run, and cannot be written without it.
                if key == "sweep" or not _is_rejection(error):
                    self._report_unavailable(error)
                    return False
                if key not in self._reported:
                    subject = f"trial {key}" if isinstance(key, int) else key
                    logger.warning(
                        "MLflow rejected the record of %s: %s", subject, experiment.first_line(error)
                    )
                    self._reported.add(key)
                self._mark_written(key, write, rejected=True)
            else:
                self._mark_written(key, write)
        return True

    def _report_unavailable(self, error: Exception) -> None:
        """Log that MLflow is unavailable, once per outage."""
        if not self._unavailable:
            logger.warning("MLflow is unavailable: %s", experiment.first_line(error))
        with self._changed:
            self._unavailable = True
            self._changed.notify_all()

    def _mark_written(self, key: int | str, write: Callable[[], None], *, rejected: bool = False) -> None:
        """Remove a write from the queue, unless a newer one has replaced it."""
        with self._changed:
            self._unavailable = False
            if self._pending.get(key) is write:
                del self._pending[key]
                if rejected:
                    self._rejected[key] = write
            self._changed.notify_all()


def _is_rejection(error: Exception) -> bool:
    """Return whether MLflow answered with a client error, HTTP 400 to 499, that is not transient."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    status = 0
    if isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
    elif isinstance(error, MlflowException):
        status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return 400 <= status < 500 and status not in _TRANSIENT
