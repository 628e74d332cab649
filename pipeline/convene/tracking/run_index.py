"""The MLflow runs of a sweep: one for the sweep, one per trial and one per ensemble."""

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from convene.datasets import Dataset
from convene.records.sweep_record import SweepMetadata
from convene.tracking import experiment
from convene.tracking.experiment import TrackingLocation

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_VALUE_LIMIT = 6000  # characters in a parameter's value, by MLflow's limit
_RUNS_PER_PAGE = 1000


@final
class RunIndex:
    """The MLflow run of each part of a sweep, looked up or created on demand.

    A part is "sweep", a trial's number, or "ensemble 1" for the ensemble of the first read of the test set.

    Args:
        location: where MLflow stores runs.
        metadata: identifies the sweep.
        dataset: selects the experiment.
        fresh: whether the sweep is new, so that MLflow has no runs of it yet.
    """

    def __init__(
        self, location: TrackingLocation, metadata: SweepMetadata, dataset: Dataset, *, fresh: bool
    ) -> None:
        self.experiment_id = ""
        self._location, self._metadata, self._dataset, self._fresh = location, metadata, dataset, fresh
        self._client: MlflowClient | None = None
        self._run_ids: dict[str, str] = {}

    @property
    def client(self) -> "MlflowClient":
        """Return MLflow's client. The first use creates it, and the experiment if necessary."""
        if self._client is None:
            self._client, self.experiment_id = experiment.open_experiment(self._location, self._dataset)
        return self._client

    @property
    def fresh(self) -> bool:
        """Return whether every run of the sweep in MLflow was created by this object."""
        return self._fresh

    def forget(self) -> None:
        """Discard what is known about MLflow's content, after a write that may have failed halfway."""
        self._client, self._fresh = None, False
        self._run_ids.clear()

    def find(self, part: str) -> str | None:
        """Return the run id of a part, or None if MLflow has no run for it."""
        if part in self._run_ids or self._fresh:
            return self._run_ids.get(part)
        client, query = self.client, experiment.run_filter(self._metadata, part)
        runs = client.search_runs([self.experiment_id], query, max_results=1)
        if runs:
            self._run_ids[part] = runs[0].info.run_id
        return self._run_ids.get(part)

    def runs(self) -> dict[str, "Run"]:
        """Return every run of the sweep, by part."""
        client, query = self.client, experiment.run_filter(self._metadata)
        found: dict[str, Run] = {}
        token = None
        while True:
            page = client.search_runs(
                [self.experiment_id], query, max_results=_RUNS_PER_PAGE, page_token=token
            )
            found |= {run.data.tags["convene.part"]: run for run in page}
            if not (token := page.token):
                return found

    def create(self, part: str, name: str, started: int, parent: str | None) -> str:
        """Create the run of a part and return its id; `started` is in milliseconds since the epoch."""
        metadata = self._metadata
        tags = {"convene.sweep": metadata.name, "convene.id": metadata.id, "convene.part": part}
        if parent:
            tags["mlflow.parentRunId"] = parent
        run = self.client.create_run(self.experiment_id, started, tags, name)
        self._run_ids[part] = run.info.run_id
        return self._run_ids[part]

    def page(self, part: str) -> str | None:
        """Return the page of a part's run relative to the server's address, or None if there is no run."""
        run_id = self.find(part)
        return experiment.run_page(self.experiment_id, run_id) if run_id else None

    def log(
        self,
        run_id: str,
        parameters: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write values to a run in one call; metrics are written at step 0."""
        from mlflow.entities import Metric, Param, RunTag

        now = now_milliseconds()
        self.client.log_batch(
            run_id,
            metrics=[Metric(k, v, now, 0) for k, v in (metrics or {}).items()],
            params=[Param(k, parameter_text(v)) for k, v in (parameters or {}).items() if v is not None],
            tags=[RunTag(k, v) for k, v in (tags or {}).items()],
        )

    def log_dataset(self, run_id: str) -> None:
        """Record the data set as an input of the run."""
        from mlflow.entities import Dataset as MlflowDataset
        from mlflow.entities import DatasetInput, InputTag

        data = self._dataset
        profile = {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)}
        entity = MlflowDataset(
            name=data.name,
            digest=data.fingerprint[:36],  # MLflow's limit
            source_type="local",
            source=json.dumps({"uri": data.source}),
            profile=json.dumps(profile | {"classes": len(data.classes), "shape": data.image_shape}),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(run_id, [DatasetInput(entity, tags)])


def parameter_text(value: object) -> str:
    """Return a parameter's value as MLflow stores it."""
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)[:_VALUE_LIMIT]


def now_milliseconds() -> int:
    """Return the time in milliseconds since the epoch, MLflow's unit."""
    return time.time_ns() // 1_000_000
