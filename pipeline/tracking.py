"""The MLflow tree of a sweep: experiment ► sweep ► trials and ensemble. Never in the way of training."""

import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pipeline import registry
from pipeline.config import Configuration, flatten
from pipeline.datasets import Dataset
from pipeline.errors import InputError
from pipeline.metrics import Epoch
from pipeline.record import About
from pipeline.storage import Storage

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipeline.ensemble import ScoredEnsemble

logger = logging.getLogger(__name__)

STATUSES = {"RUNNING": "RUNNING", "COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_ANSWER_WITHIN = 5  # seconds that a server has to say that it is there
_VALUE_LIMIT = 6000  # characters that MLflow keeps of a parameter's value
_BATCH = 900  # metrics that MLflow takes at once, at most 1,000
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0  # seconds until a record that was refused is tried again


@dataclass(frozen=True)
class TrackingPlace:
    """Where MLflow records: the URI, and where artifacts go that no server takes."""

    uri: str
    artifacts: str | None


def place(storage: Storage) -> TrackingPlace:
    """`MLFLOW_TRACKING_URI` where it is set, else SQLite under the storage root.

    Raises:
        InputError: if it is a server that does not answer.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # The tracker tries again by itself, and a sweep that ends must not wait for a server that is away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return TrackingPlace(f"sqlite:///{storage.local('mlflow.db')}", storage.local("artifacts").as_uri())
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_ANSWER_WITHIN):
                pass
        except urllib.error.HTTPError:
            pass  # it answers; a server behind a login may refuse this page and still take runs
        except (OSError, ValueError) as error:
            raise InputError(f"MLFLOW_TRACKING_URI = {uri}: the server does not answer: {error}") from None
    return TrackingPlace(uri, None)


@dataclass(frozen=True)
class TrialView:
    """A trial as MLflow is to show it."""

    number: int
    configuration: Configuration
    started: float
    """Seconds since 1970."""
    ended: float | None = None
    state: str = "RUNNING"
    reason: str | None = None
    epochs: tuple[Epoch, ...] = ()


@dataclass(frozen=True)
class _Shown:
    """What MLflow already has of a trial."""

    run_id: str
    epochs: int = 0
    ended: bool = False


@final
class Tracker:
    """Keeps MLflow's picture of one sweep up to date. Calls return at once; a thread talks to MLflow.

    What is to be shown is a whole trial, and the thread writes what MLflow lacks of it; so nothing is written
    twice, and what fails is tried again. Training never waits. Leaving the context waits while MLflow takes
    what is left, but not for one that is away: then `waiting` says how many trials it lacks.

    Args:
        where: the place to record.
        about: the sweep.
        dataset: recorded as the input of every run.
        configuration: the sweep's.
        fresh: whether the sweep is new, and MLflow need not be asked what it has.
    """

    def __init__(
        self,
        where: TrackingPlace,
        about: About,
        dataset: Dataset,
        configuration: Configuration,
        *,
        fresh: bool,
    ) -> None:
        self.where = where
        self.waiting = 0
        self.parent: str | None = None
        self._about = about
        self._dataset = dataset
        self._configuration = configuration
        self._fresh = fresh
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._shown: dict[int, _Shown] = {}
        self._pending: dict[int | str, Callable[[], None]] = {}
        self._changed = threading.Condition()
        self._closing = self._failing = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def __enter__(self) -> "Tracker":
        self._put("sweep", self._show_sweep)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind:
            status = "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
            self._put("end", lambda: self._end_sweep(status))
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self.waiting = len(self._pending)

    def show(self, view: TrialView) -> None:
        """Hands over a trial; an older picture of it that was not written yet is dropped."""
        self._put(view.number, lambda: self._show(view))

    def show_result(self, scored: "ScoredEnsemble", export: Path, files: Iterable[Path]) -> None:
        """Hands over the ensemble, its scores and the sweep's files, and ends the sweep's run."""
        self._put("ensemble", lambda: self._show_ensemble(scored, export))
        self._put("end", lambda: self._end_sweep("FINISHED", scored, tuple(files)))

    def run_ids(self) -> dict[int, str]:
        """The run of each trial that MLflow has."""
        return {number: shown.run_id for number, shown in self._shown.items()}

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
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending or (self._closing and self._failing):
                    return
                key, write = next(iter(self._pending.items()))
            try:
                write()
            except Exception as error:  # whatever a database or a server comes up with must not stop a sweep
                if not self._failing:
                    logger.warning("MLflow does not take records: %s: %s", type(error).__name__, error)
                self._failing, self._fresh, self._client = True, False, None
                self._shown.clear()
                with self._changed:
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closing, timeout=pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause, self._failing = _FIRST_PAUSE, False
            with self._changed:
                if self._pending.get(key) is write:
                    del self._pending[key]
                self._changed.notify_all()

    def _connect(self) -> "MlflowClient":
        if self._client is None:
            from mlflow import MlflowClient

            client = MlflowClient(self.where.uri)
            experiment = client.get_experiment_by_name(self._dataset.name)
            self._experiment_id = (
                experiment.experiment_id
                if experiment
                else client.create_experiment(self._dataset.name, artifact_location=self.where.artifacts)
            )
            self._client = client
        return self._client

    def _show_sweep(self) -> None:
        """The sweep's own run, the parent of all others."""
        self._connect()
        self.parent = self._find("sweep")
        if self.parent is None:
            self.parent = self._create(self._about.name, "sweep", _now())
            self._log(self.parent, flatten(self._configuration, "data", "search", "ensemble"))
            self._log_dataset(self.parent)
        else:
            self._connect().update_run(self.parent, "RUNNING")

    def _show(self, view: TrialView) -> None:
        shown = self._shown.get(view.number) or self._look_up(view) or self._start(view)
        self._log_epochs(shown.run_id, view.epochs[shown.epochs :])
        if view.ended is not None and not shown.ended:
            if view.reason:
                self._connect().set_tag(shown.run_id, "convene.reason", view.reason)
            self._connect().set_terminated(shown.run_id, STATUSES[view.state], round(view.ended * 1000))
        epochs = max(shown.epochs, len(view.epochs))  # a trial that goes on is first shown without its epochs
        self._shown[view.number] = _Shown(shown.run_id, epochs, view.ended is not None)

    def _start(self, view: TrialView) -> _Shown:
        name = f"{self._about.name}/{view.number:03d}"
        run_id = self._create(name, str(view.number), round(view.started * 1000))
        self._log(run_id, flatten(view.configuration, "network", "training"))
        self._log_dataset(run_id)
        return _Shown(run_id)

    def _look_up(self, view: TrialView) -> _Shown | None:
        """What MLflow has of a trial from an earlier process, or from before it was away."""
        run_id = self._find(str(view.number))
        if run_id is None:
            return None
        client = self._connect()
        run = client.get_run(run_id)
        # Parameters and inputs that are there already are taken again without harm.
        self._log(run_id, flatten(view.configuration, "network", "training"))
        self._log_dataset(run_id)
        if view.ended is None and run.info.status != "RUNNING":
            client.update_run(run_id, "RUNNING")  # it goes on
        history = client.get_metric_history(run_id, "valid_loss")
        ended = view.ended is not None and run.info.status == STATUSES[view.state]
        return _Shown(run_id, max((point.step for point in history), default=0), ended)

    def _log_epochs(self, run_id: str, epochs: tuple[Epoch, ...]) -> None:
        """One row an epoch, whose step it is."""
        from mlflow.entities import Metric

        now, batch = _now(), []
        for epoch in epochs:
            batch += [Metric(name, value, now, epoch.epoch) for name, value in epoch.metrics().items()]
            if len(batch) > _BATCH or epoch is epochs[-1]:
                self._connect().log_batch(run_id, metrics=batch)
                batch = []

    def _show_ensemble(self, scored: "ScoredEnsemble", export: Path) -> None:
        client = self._connect()
        part = f"ensemble {scored.test_reads}"
        run_id = self._find(part)
        if run_id and client.get_run(run_id).info.status == "FINISHED":
            return
        run_id = run_id or self._create(f"{self._about.name}/ensemble", part, _now())
        members = {f"member.{m.trial:03d}.weight": m.weight for m in scored.members}
        self._log(run_id, {"ensemble.size": len(scored.members), **members}, _scores(scored))
        self._log_dataset(run_id)
        registry.register(client, run_id, export, self._dataset, scored)
        client.set_terminated(run_id, "FINISHED")

    def _end_sweep(
        self, status: str, scored: "ScoredEnsemble | None" = None, files: tuple[Path, ...] = ()
    ) -> None:
        client = self._connect()
        self.parent = self.parent or self._find("sweep")
        assert self.parent, "the sweep's run is the first thing that is written"
        for file in files:
            client.log_artifact(self.parent, str(file))
        if scored:
            single = scored.best_single.test_accuracy
            self._log(self.parent, metrics={**_scores(scored), "best_single_test_accuracy": single})
        client.set_terminated(self.parent, status)

    def _find(self, part: str) -> str | None:
        """The run of a part of this sweep: "sweep", "ensemble …" or a trial's number."""
        if self._fresh:
            return None
        wanted = f"tags.`convene.id` = '{self._about.id}' and tags.`convene.part` = '{part}'"
        runs = self._connect().search_runs([self._experiment_id], wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _create(self, name: str, part: str, started: int) -> str:
        tags = {"convene.sweep": self._about.name, "convene.id": self._about.id, "convene.part": part}
        if self.parent:
            tags["mlflow.parentRunId"] = self.parent
        run = self._connect().create_run(self._experiment_id, started, tags, name)
        return str(run.info.run_id)

    def _log(
        self,
        run_id: str,
        parameters: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param

        now = _now()
        self._connect().log_batch(
            run_id,
            metrics=[Metric(k, v, now, 0) for k, v in (metrics or {}).items()],
            params=[Param(k, _text(v)) for k, v in (parameters or {}).items() if v is not None],
        )

    def _log_dataset(self, run_id: str) -> None:
        from mlflow.entities import Dataset as MlflowDataset
        from mlflow.entities import DatasetInput, InputTag

        data = self._dataset
        profile = {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)}
        entity = MlflowDataset(
            name=data.name,
            digest=data.fingerprint[:36],  # as many characters as MLflow takes
            source_type="local",
            source=json.dumps({"uri": data.source}),
            profile=json.dumps(profile | {"classes": len(data.classes), "shape": data.image_shape}),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self._connect().log_inputs(run_id, [DatasetInput(entity, tags)])


def _scores(scored: "ScoredEnsemble") -> dict[str, float]:
    low, high = scored.test_interval
    return {
        "valid_loss": scored.valid_loss,
        "valid_accuracy": scored.valid_accuracy,
        "test_loss": scored.test_loss,
        "test_accuracy": scored.test_accuracy,
        "test_accuracy_low": low,
        "test_accuracy_high": high,
    }


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)[:_VALUE_LIMIT]


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000
