"""The MLflow tree of a sweep: experiment ► sweep ► trials and ensemble. Never in the way of training."""

import json
import logging
import os
import queue
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
from pipeline.storage import Storage

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipeline.ensemble import ScoredEnsemble

logger = logging.getLogger(__name__)

STATUSES = {"RUNNING": "RUNNING", "COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_ANSWER_WITHIN = 5  # seconds that a server has to say that it is there
_VALUE_LIMIT = 6000  # characters that MLflow keeps of a parameter's value


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


@final
class Tracker:
    """Records one sweep. Calls return at once; a thread of its own talks to MLflow, in order.

    What MLflow refuses is logged and counted in `lost`; training goes on. Leaving the context waits for
    what was handed over, and closes the sweep's run as failed if there was an exception.

    Args:
        where: the place to record.
        name: of the sweep.
        dataset: recorded as the input of every run.
        configuration: the sweep's.
        runs: run ids of what is recorded already, by trial number and "sweep".
    """

    def __init__(
        self,
        where: TrackingPlace,
        name: str,
        dataset: Dataset,
        configuration: Configuration,
        runs: Mapping[str, str] | None = None,
    ) -> None:
        self.where = where
        self.lost = 0
        self._runs = dict(runs or {})
        self._name = name
        self._dataset = dataset
        self._configuration = configuration
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._client: MlflowClient
        self._experiment_id: str
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def __enter__(self) -> "Tracker":
        self._queue.put(self._start_sweep)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind:
            ended = _now()
            self._queue.put(lambda: self._end(self._runs["sweep"], "FAILED", ended, kind.__name__))
        self._queue.put(None)
        self._thread.join()

    def start_trial(self, number: int, configuration: Configuration) -> None:
        """Opens a trial's run, with its parameters under their configuration names."""
        started = _now()
        self._queue.put(lambda: self._start_trial(number, configuration, started))

    def epoch(self, number: int, epoch: Epoch) -> None:
        """One metric row; its step is the epoch."""
        from_now = _now()
        self._queue.put(
            lambda: self._log(
                self._runs[str(number)], metrics=epoch.metrics(), step=epoch.epoch, timestamp=from_now
            )
        )

    def end_trial(self, number: int, state: str, reason: str | None) -> None:
        """Closes a trial's run with MLflow's status for its state."""
        ended = _now()
        self._queue.put(lambda: self._end(self._runs[str(number)], STATUSES[state], ended, reason))

    def log_ensemble(self, scored: "ScoredEnsemble", export: Path) -> None:
        """A run for the ensemble: its members and scores, and the export as a registered model."""
        started = _now()
        self._queue.put(lambda: self._log_ensemble(scored, export, started))

    def end_sweep(self, scored: "ScoredEnsemble", files: Iterable[Path]) -> None:
        """Closes the sweep's run with its scores and files."""
        ended = _now()
        self._queue.put(lambda: self._end_sweep(scored, tuple(files), ended))

    def drain(self) -> dict[str, str]:
        """Waits until everything so far was written; returns the run ids by trial number and "sweep"."""
        reached = threading.Event()
        self._queue.put(reached.set)
        reached.wait()
        return dict(self._runs)

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                task()
            except Exception as error:  # whatever a database or a server comes up with must not stop a sweep
                self.lost += 1
                logger.warning("MLflow did not take a record: %s: %s", type(error).__name__, error)

    def _start_sweep(self) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(self.where.uri)
        experiment = self._client.get_experiment_by_name(self._dataset.name)
        self._experiment_id = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(self._dataset.name, artifact_location=self.where.artifacts)
        )
        if "sweep" not in self._runs:
            self._runs["sweep"] = self._create(self._name, _now())
            self._log(self._runs["sweep"], flatten(self._configuration, "data", "search", "ensemble"))
            self._log_dataset(self._runs["sweep"])

    def _start_trial(self, number: int, configuration: Configuration, started: int) -> None:
        run_id = self._create(f"{self._name}/{number:03d}", started)
        self._runs[str(number)] = run_id
        self._log(run_id, flatten(configuration, "network", "training"))
        self._log_dataset(run_id)

    def _log_ensemble(self, scored: "ScoredEnsemble", export: Path, started: int) -> None:
        run_id = self._create(f"{self._name}/ensemble", started)
        members = {f"member.{m.trial:03d}.weight": m.weight for m in scored.members}
        self._log(run_id, {"ensemble.size": len(scored.members), **members}, _scores(scored))
        self._log_dataset(run_id)
        registry.register(self._client, run_id, export, self._dataset, scored)
        self._end(run_id, "FINISHED", _now(), None)

    def _end_sweep(self, scored: "ScoredEnsemble", files: tuple[Path, ...], ended: int) -> None:
        for file in files:
            self._client.log_artifact(self._runs["sweep"], str(file))
        single = scored.best_single
        self._log(
            self._runs["sweep"],
            metrics={**_scores(scored), "best_single_test_accuracy": single.test_accuracy},
        )
        self._end(self._runs["sweep"], "FINISHED", ended, None)

    def _create(self, name: str, started: int) -> str:
        tags = {"convene.sweep": self._name}
        if "sweep" in self._runs:
            tags["mlflow.parentRunId"] = self._runs["sweep"]
        return str(self._client.create_run(self._experiment_id, started, tags, name).info.run_id)

    def _log(
        self,
        run_id: str,
        parameters: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        timestamp: int | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param

        self._client.log_batch(
            run_id,
            metrics=[Metric(k, v, timestamp or _now(), step) for k, v in (metrics or {}).items()],
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
        self._client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def _end(self, run_id: str, status: str, ended: int, reason: str | None) -> None:
        if reason:
            self._client.set_tag(run_id, "convene.reason", reason)
        self._client.set_terminated(run_id, status, ended)


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
