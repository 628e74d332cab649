"""Keeps MLflow's picture of a sweep up to date, without ever being in the way of training."""

import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import final

from pipeline.credentials import shown
from pipeline.errors import InputError, last_line
from pipeline.record import EXPORT, ScoredEnsemble, SweepRecord
from pipeline.runs import SweepRuns, TrackingPlace, TrialView
from pipeline.storage import Storage

logger = logging.getLogger(__name__)

_ANSWER_WITHIN = 5  # seconds that a server has to say that it is there
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0  # seconds until a record that was refused is tried again
_GATHER = 0.5  # seconds that changes are gathered for


def place(storage: Storage) -> TrackingPlace:
    """`MLFLOW_TRACKING_URI` where it is set, else SQLite under the storage root.

    Raises:
        InputError: if it is a server that does not answer, or the root is no folder and there is none.
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
        return TrackingPlace(f"sqlite:///{storage.local('mlflow.db')}", storage.local("artifacts").as_uri())
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{shown(uri).rstrip('/')}/health", timeout=_ANSWER_WITHIN):
                pass
        except urllib.error.HTTPError:
            pass  # it answers; a server behind a login may refuse this page and still take runs
        except (OSError, ValueError) as error:
            raise InputError(
                f"MLFLOW_TRACKING_URI = {shown(uri)}: the server does not answer: {error}"
            ) from None
    else:
        _check_opens(uri)
    return TrackingPlace(uri, None)


def _check_opens(uri: str) -> None:
    from mlflow import MlflowClient

    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:  # each kind of store has its own
        raise InputError(
            f"MLFLOW_TRACKING_URI = {shown(uri)}: cannot be opened: {last_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


@final
class Tracker:
    """Keeps MLflow's picture of one sweep up to date. Calls return at once; a thread talks to MLflow.

    What is to be shown is a whole trial, and the thread writes what MLflow lacks of it; so nothing is written
    twice, and what fails is tried again. Training never waits. Leaving the context waits while MLflow takes
    what is left, but not for one that is away: then `waiting` says how many trials it lacks.

    Args:
        runs: what writes the sweep's runs; used by the thread alone.
        ends: whether the sweep itself has failed if there is an exception in the context.
    """

    def __init__(self, runs: SweepRuns, *, ends: bool = True) -> None:
        self.waiting = 0
        self._ends = ends
        self._runs = runs
        self._pending: dict[int | str, Callable[[], None]] = {}
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
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self.waiting = len(self._pending)

    def show(self, view: TrialView) -> None:
        """Hands over a trial; an older picture of it that was not written yet is dropped."""
        self._put(view.number, lambda: self._runs.show_trial(view))

    def show_result(self, scored: ScoredEnsemble, kept: SweepRecord, tags: Mapping[str, str]) -> None:
        """Hands over the ensemble, its scores and the sweep's files and tags, and ends the sweep's run."""

        def show_ensemble() -> None:
            with kept.files.at_hand(EXPORT) as export:
                self._runs.show_ensemble(scored, export)

        def end() -> None:
            with ExitStack() as stack:
                files = tuple(stack.enter_context(kept.files.at_hand(file)) for file in kept.artifacts)
                self._runs.end_sweep("FINISHED", scored, files, tags)

        self._put("ensemble", show_ensemble)
        self._put("end", end)

    def end(self, status: str) -> None:
        """Ends the sweep's run without a result."""
        self._put("end", lambda: self._runs.end_sweep(status))

    @property
    def uri(self) -> str:
        """MLflow's tracking URI, without a password."""
        return shown(self._runs.where.uri)

    @property
    def parent(self) -> str | None:
        """The run of the sweep itself, once it is written."""
        return self._runs.parent

    def run_ids(self) -> dict[int, str]:
        """The run of each trial that MLflow has."""
        return self._runs.run_ids()

    def settle(self) -> None:
        """Waits until MLflow has everything, or does not take it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or self._failing)

    def _put(self, key: int | str, write: Callable[[], None]) -> None:
        with self._changed:
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
        """Whether MLflow took it all, but for what has changed since."""
        for key, write in batch:
            if self._pending.get(key) is not write:
                continue  # there is a newer picture of it
            try:
                write()
            except Exception as error:  # whatever a database or a server comes up with must not stop a sweep
                if not self._failing:
                    logger.warning("MLflow does not take records: %s", _first_line(error))
                self._runs.forget()
                with self._changed:
                    self._failing = True
                    self._changed.notify_all()
                return False
            with self._changed:
                self._failing = False
                if self._pending.get(key) is write:
                    del self._pending[key]
                self._changed.notify_all()
        return True
