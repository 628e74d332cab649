"""Keeps MLflow's picture of a sweep up to date, without ever being in the way of training."""

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
from convene.tracking.experiment import TrackingPlace
from convene.tracking.sweep_runs import SweepRuns

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0  # seconds until a record that was refused is tried again
_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
_PASSING = (401, 408, 429)  # of HTTP: a login that ran out, too late, too many requests
_GATHER = 0.5  # seconds that changes are gathered for


def place(storage: Storage) -> TrackingPlace:
    """`MLFLOW_TRACKING_URI` where it is set, else SQLite under the storage root.

    Raises:
        InputError: if a server does not answer or asks for a login, a database does not open, or the root
            is no folder and there is neither.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # the tracker tells of errors itself, once
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # The tracker tries again by itself, and a sweep that ends must not wait for a server that is away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and not storage.is_local:
        raise InputError(
            f"storage = {storage.root}: MLflow keeps no database there; set MLFLOW_TRACKING_URI to a server"
        )
    if not uri:
        # SQLAlchemy takes it for a part of a URL, and no more than this of it.
        database = str(storage.local("mlflow.db")).replace("%", "%25").replace("?", "%3F")
        return TrackingPlace(f"sqlite:///{database}", storage.local("artifacts").as_uri())
    where = TrackingPlace(uri, None)
    if where.is_server:
        _check_answers(where.shown)
    _check_opens(where)
    return where


def _check_answers(address: str) -> None:
    """In seconds; MLflow's own client takes longer to give up."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=ANSWER_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # it answers; a server behind a login may refuse this page and still take runs
    except (OSError, ValueError) as error:
        raise InputError(f"MLFLOW_TRACKING_URI = {address}: the server does not answer: {error}") from None


def _check_opens(where: TrackingPlace) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        with experiment.alone(where.uri):
            MlflowClient(where.uri).search_experiments(max_results=1)
    except Exception as error:  # each kind of store has its own
        said = f"MLFLOW_TRACKING_URI = {where.shown}"
        code = error.error_code if isinstance(error, MlflowException) else ""
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            given = _LOGIN[0] in os.environ or where.shown != where.uri
            wrong = "does not take this login" if given else "asks for a login"
            raise InputError(f"{said}: the server {wrong}; set {_LOGIN[0]} and {_LOGIN[1]}") from None
        raise InputError(f"{said}: cannot be opened: {experiment.first_line(error)}") from None


@final
class Tracker:
    """Keeps MLflow's picture of one sweep up to date. Calls return at once; a thread talks to MLflow.

    What is to be shown is a whole trial, and the thread writes what MLflow lacks of it; so nothing is written
    twice, and what fails is tried again; a record that MLflow refuses holds up no other. Training never
    waits. Leaving the context waits while MLflow takes what is left, but not for one that is away: then
    `waiting` says how many records it lacks.

    Args:
        runs: what writes the sweep's runs; used by the thread alone.
        ends: whether the sweep itself has failed if there is an exception in the context.
    """

    def __init__(self, runs: SweepRuns, *, ends: bool = True) -> None:
        self.waiting = 0
        self._ends = ends
        self._runs = runs
        self._pending: dict[int | str, Callable[[], None]] = {}
        self._refused: dict[int | str, Callable[[], None]] = {}
        """What MLflow did not want, and what is offered once more at the end."""
        self._told: set[int | str] = set()
        self._changed = threading.Condition()
        self._closing = self._failing = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def __enter__(self) -> "Tracker":
        self._put("sweep", self._runs.show_sweep)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind and self._ends:
            self.end("KILLED" if issubclass(kind, KeyboardInterrupt | SystemExit) else "FAILED")
        with self._changed:
            self._pending |= self._refused
            self._refused.clear()
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self.waiting = len(self._pending) + len(self._refused)

    def show(self, view: TrialView) -> None:
        """Hands over a trial; an older picture of it that was not written yet is dropped."""
        self._put(view.number, lambda: self._runs.show_trial(view))

    def show_result(self, result: SweepResult, record: SweepRecord, tags: Mapping[str, str]) -> None:
        """Hands over the ensemble, its scores and the sweep's files and tags, and ends the sweep's run."""

        def show_ensemble() -> None:
            with record.files.local_copy(EXPORT) as export:
                self._runs.show_ensemble(result.scores, export)

        def end() -> None:
            with ExitStack() as stack:
                files = tuple(stack.enter_context(record.files.local_copy(file)) for file in record.artifacts)
                self._runs.end_sweep("FINISHED", result, files, tags)

        self._put("ensemble", show_ensemble)
        self._put("end", end)

    def show_standings(self, views: Sequence[TrialView], standings: Mapping[int, Standing]) -> None:
        """Hands over where the trials stand, now that all have ended."""
        self._put("standings", lambda: self._runs.show_standings(views, standings))

    def end(self, status: str) -> None:
        """Ends the sweep's run without a result."""
        self._put("end", lambda: self._runs.end_sweep(status))

    @property
    def uri(self) -> str:
        """MLflow's tracking URI, without a password."""
        return self._runs.where.shown

    @property
    def parent(self) -> str | None:
        """The run of the sweep itself, once it is written."""
        return self._runs.parent

    def run_ids(self) -> dict[int, str]:
        """The run of each trial that MLflow has."""
        return self._runs.run_ids()

    def flush(self) -> None:
        """Waits until MLflow has everything, or does not take it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or self._failing)

    def _put(self, key: int | str, write: Callable[[], None]) -> None:
        with self._changed:
            self._refused.pop(key, None)
            self._pending.pop(key, None)  # so that the order is that of the last changes
            self._pending[key] = write
            self._changed.notify_all()

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        while batch := self._gathered():
            if self._write(batch):
                pause = _FIRST_PAUSE
                continue
            with self._changed:
                if self._closing:
                    return
                self._changed.wait_for(lambda: self._closing, timeout=pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _gathered(self) -> list[tuple[int | str, Callable[[], None]]]:
        """What is to be written; nothing when all is done and no more is to come."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            # A trial that is begun and ended in a moment is then written once, not at each step.
            self._changed.wait_for(lambda: self._closing, timeout=_GATHER)
            return list(self._pending.items())

    def _write(self, batch: list[tuple[int | str, Callable[[], None]]]) -> bool:
        """Whether MLflow is there: it was asked for all of the batch, but for what has changed since."""
        for key, write in batch:
            if self._pending.get(key) is not write:
                continue  # there is a newer picture of it
            try:
                write()
            except Exception as error:  # whatever a database or a server comes up with must not stop a sweep
                self._runs.forget()
                # All others are those of the sweep's own run, and wait for it.
                if key == "sweep" or not _is_refusal(error):
                    self._note_away(error)
                    return False
                if key not in self._told:
                    logger.warning("MLflow refuses the record of %s: %s", key, experiment.first_line(error))
                    self._told.add(key)
                self._mark_written(key, write, refused=True)
            else:
                self._mark_written(key, write)
        return True

    def _note_away(self, error: Exception) -> None:
        if not self._failing:
            logger.warning("MLflow does not take records: %s", experiment.first_line(error))
        with self._changed:
            self._failing = True
            self._changed.notify_all()

    def _mark_written(self, key: int | str, write: Callable[[], None], *, refused: bool = False) -> None:
        with self._changed:
            self._failing = False
            if self._pending.get(key) is write:
                del self._pending[key]
                if refused:
                    self._refused[key] = write
            self._changed.notify_all()


def _is_refusal(error: Exception) -> bool:
    """Whether MLflow answered, and does not want this very record: HTTP 400 to 499, but for what passes."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    status = 0
    if isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
    elif isinstance(error, MlflowException):
        status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return 400 <= status < 500 and status not in _PASSING
