"""The MLflow run of each part of a sweep: found or made, and written to in few calls."""

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from convene.datasets import Dataset
from convene.records.sweep_record import SweepMetadata
from convene.tracking import experiment
from convene.tracking.experiment import TrackingPlace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_VALUE_LIMIT = 6000  # characters that MLflow keeps of a parameter's value
_AT_ONCE = 1000  # runs that are asked for


@final
class RunIndex:
    """A part is "sweep", "ensemble 1" for that of the first opening of the test set, or a trial's number.

    Args:
        where: the place to record.
        about: the sweep.
        dataset: whose experiment the runs are in.
        fresh: whether the sweep is new, and MLflow need not be asked what it has.
    """

    def __init__(self, where: TrackingPlace, about: SweepMetadata, dataset: Dataset, *, fresh: bool) -> None:
        self.experiment_id = ""
        self._where, self._about, self._dataset, self._fresh = where, about, dataset, fresh
        self._client: MlflowClient | None = None
        self._known: dict[str, str] = {}

    @property
    def client(self) -> "MlflowClient":
        """MLflow's own; made at the first use, with the experiment."""
        if self._client is None:
            self._client, self.experiment_id = experiment.connect(self._where, self._dataset)
        return self._client

    @property
    def fresh(self) -> bool:
        """Whether MLflow has nothing of the sweep but what was written here."""
        return self._fresh

    def forget(self) -> None:
        """After an error: what was written is unknown, and MLflow is asked before the next write."""
        self._client, self._fresh = None, False
        self._known.clear()

    def find(self, part: str) -> str | None:
        """The run of a part, if MLflow has one."""
        if part in self._known or self._fresh:
            return self._known.get(part)
        client, wanted = self.client, experiment.part_of(self._about, part)
        runs = client.search_runs([self.experiment_id], wanted, max_results=1)
        if runs:
            self._known[part] = runs[0].info.run_id
        return self._known.get(part)

    def all(self) -> dict[str, "Run"]:
        """Every run of the sweep, by its part."""
        client, wanted = self.client, experiment.part_of(self._about)
        found: dict[str, Run] = {}
        token = None
        while True:
            page = client.search_runs([self.experiment_id], wanted, max_results=_AT_ONCE, page_token=token)
            found |= {run.data.tags["convene.part"]: run for run in page}
            if not (token := page.token):
                return found

    def create(self, part: str, name: str, started: int, parent: str | None) -> str:
        """A run for a part; `started` is in milliseconds since 1970."""
        tags = {"convene.sweep": self._about.name, "convene.id": self._about.id, "convene.part": part}
        if parent:
            tags["mlflow.parentRunId"] = parent
        run = self.client.create_run(self.experiment_id, started, tags, name)
        self._known[part] = run.info.run_id
        return self._known[part]

    def page(self, part: str) -> str | None:
        """The page of a part's run, from the server's address on."""
        run_id = self.find(part)
        return experiment.run_page(self.experiment_id, run_id) if run_id else None

    def log(
        self,
        run_id: str,
        parameters: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Writes values to a run, in one call; metrics at step 0."""
        from mlflow.entities import Metric, Param, RunTag

        time_ = now()
        self.client.log_batch(
            run_id,
            metrics=[Metric(k, v, time_, 0) for k, v in (metrics or {}).items()],
            params=[Param(k, text(v)) for k, v in (parameters or {}).items() if v is not None],
            tags=[RunTag(k, v) for k, v in (tags or {}).items()],
        )

    def log_dataset(self, run_id: str) -> None:
        """Notes the images as the run's input."""
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
        self.client.log_inputs(run_id, [DatasetInput(entity, tags)])


def text(value: object) -> str:
    """A parameter's value as MLflow keeps it."""
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)[:_VALUE_LIMIT]


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000
