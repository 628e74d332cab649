"""The MLflow runs of one sweep: experiment ► sweep ► trials and ensemble."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pipeline import registry
from pipeline.config import Configuration, flatten
from pipeline.datasets import Dataset
from pipeline.metrics import Epoch
from pipeline.record import About, ScoredEnsemble

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATUSES = {"RUNNING": "RUNNING", "COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_VALUE_LIMIT = 6000  # characters that MLflow keeps of a parameter's value
_BATCH = 900  # metrics that MLflow takes at once, at most 1,000


@dataclass(frozen=True)
class TrackingPlace:
    """Where MLflow records: the URI, and where artifacts go that no server takes."""

    uri: str
    artifacts: str | None


@dataclass(frozen=True)
class TrialView:
    """A trial as MLflow is to show it."""

    number: int
    settings: Mapping[str, Any]
    """Values of [network] and [training] by dotted name; those that do not apply are not there."""
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
    described: bool = False
    """Its parameters and data set; both can be written again without harm."""
    epochs: int = 0
    ended: bool = False


@final
class SweepRuns:
    """Writes what MLflow lacks of a sweep. Every call can be made again, and writes nothing twice.

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
        self.parent: str | None = None
        self._about = about
        self._dataset = dataset
        self._configuration = configuration
        self._fresh = fresh
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._shown: dict[int, _Shown] = {}
        self._run_ids: dict[int, str] = {}

    def run_ids(self) -> dict[int, str]:
        """The run of each trial that was written."""
        return dict(self._run_ids)

    def forget(self) -> None:
        """After an error: what was written is unknown, and MLflow is asked before the next write."""
        self._client, self._fresh = None, False
        self._shown.clear()

    def _connect(self) -> "MlflowClient":
        if self._client is None:
            from mlflow import MlflowClient

            client = MlflowClient(self.where.uri)
            experiment = client.get_experiment_by_name(self._dataset.name)
            if experiment and experiment.lifecycle_stage == "deleted":
                client.restore_experiment(experiment.experiment_id)
            self._experiment_id = (
                experiment.experiment_id
                if experiment
                else client.create_experiment(self._dataset.name, artifact_location=self.where.artifacts)
            )
            self._client = client
        return self._client

    def show_sweep(self) -> None:
        """The sweep's own run, the parent of all others."""
        self._connect()
        self.parent = self._find("sweep")
        if self.parent is None:
            self.parent = self._create(self._about.name, "sweep", _now())
        else:
            self._connect().update_run(self.parent, "RUNNING")
        # MLflow's parameters stay as they were first; a sweep that goes on may have more trials or time.
        has = {} if self._fresh else self._connect().get_run(self.parent).data.params
        settings = flatten(self._configuration, "data", "search", "ensemble")
        self._log(self.parent, {name: value for name, value in settings.items() if name not in has})
        self._log_dataset(self.parent)

    def show_trial(self, view: TrialView) -> None:
        """The trial's run as it is by now: its parameters, each epoch once, its end."""
        shown = self._shown.get(view.number) or self._look_up(view) or self._start(view)
        ends = view.ended is not None and not shown.ended
        self._log_trial(shown, view, {"convene.reason": view.reason} if ends and view.reason else {})
        if view.ended is not None and not shown.ended:
            self._connect().set_terminated(shown.run_id, STATUSES[view.state], round(view.ended * 1000))
        epochs = max(shown.epochs, len(view.epochs))  # a trial that goes on is first shown without its epochs
        self._run_ids[view.number] = shown.run_id
        self._shown[view.number] = _Shown(shown.run_id, True, epochs, view.ended is not None)

    def _start(self, view: TrialView) -> _Shown:
        name = f"{self._about.name}/{view.number:03d}"
        return _Shown(self._create(name, str(view.number), round(view.started * 1000)))

    def _look_up(self, view: TrialView) -> _Shown | None:
        """What MLflow has of a trial from an earlier process, or from before it was away."""
        run_id = self._find(str(view.number))
        if run_id is None:
            return None
        client = self._connect()
        run = client.get_run(run_id)
        if view.ended is None and run.info.status != "RUNNING":
            client.update_run(run_id, "RUNNING")  # it goes on
            if "convene.reason" in run.data.tags:
                client.delete_tag(run_id, "convene.reason")
        history = client.get_metric_history(run_id, "valid_loss")
        ended = view.ended is not None and run.info.status == STATUSES[view.state]
        return _Shown(run_id, False, max((point.step for point in history), default=0), ended)

    def _log_trial(self, shown: _Shown, view: TrialView, tags: Mapping[str, str]) -> None:
        """In as few calls as there can be: the parameters once, and a row an epoch, whose step it is."""
        from mlflow.entities import Metric, Param, RunTag

        now = _now()
        rows = [
            Metric(name, value, now, epoch.epoch)
            for epoch in view.epochs[shown.epochs :]
            for name, value in epoch.metrics().items()
        ]
        settings = {} if shown.described else view.settings
        parameters = [Param(name, _text(value)) for name, value in settings.items() if value is not None]
        self._connect().log_batch(
            shown.run_id, rows[:_BATCH], parameters, [RunTag(name, value) for name, value in tags.items()]
        )
        for first in range(_BATCH, len(rows), _BATCH):
            self._connect().log_batch(shown.run_id, rows[first : first + _BATCH])
        if not shown.described:
            self._log_dataset(shown.run_id)

    def show_ensemble(self, scored: ScoredEnsemble, export: Path) -> None:
        """A run for the ensemble: its members and scores, and the export as a registered model."""
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

    def end_sweep(
        self,
        status: str,
        scored: ScoredEnsemble | None = None,
        files: tuple[Path, ...] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Closes the sweep's run, with its scores and files where it came to them."""
        client = self._connect()
        self.parent = self.parent or self._find("sweep")
        assert self.parent, "the sweep's run is the first thing that is written"
        for file in files:
            client.log_artifact(self.parent, str(file))
        for name, value in (tags or {}).items():
            client.set_tag(self.parent, name, value)
        if scored:
            has = client.get_run(self.parent).data.metrics
            now = {**_scores(scored), "best_single_test_accuracy": scored.best_single.test_accuracy}
            self._log(self.parent, metrics={name: now[name] for name in now if has.get(name) != now[name]})
        client.set_terminated(self.parent, status)

    def add_files(self, part: str, files: Iterable[Path], folder: str) -> bool:
        """Logs files to the run of a part of this sweep; see `_find`. False where MLflow has no such run."""
        run_id = self._find(part)
        if run_id is None:
            return False
        for file in files:
            self._connect().log_artifact(run_id, str(file), folder)
        return True

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


def _scores(scored: ScoredEnsemble) -> dict[str, float]:
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
