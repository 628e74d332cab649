"""MLflow's model registry: each data set's ensembles, the best of them as `champion`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.datasets import Dataset
from pipeline.record import ScoredEnsemble

if TYPE_CHECKING:
    from mlflow import MlflowClient


def register(
    client: "MlflowClient", run_id: str, export: Path, dataset: Dataset, scored: ScoredEnsemble
) -> None:
    """Logs the exported folder to the run, and its ONNX file as a version of the data set's registered model.

    The version with the least validation loss on this very data is `champion`: the test set chooses nothing.
    """
    import mlflow
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    if client.search_model_versions(f"run_id = '{run_id}'"):
        return
    client.log_artifacts(run_id, str(export), "export")
    channels, height, width = dataset.image_shape
    classes = len(dataset.classes)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, channels, height, width), "images")]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, classes), n) for n in ("logits", "probabilities")]),
    )
    name = f"{dataset.name}-ensemble"
    with _active(client, run_id):
        logged = mlflow.onnx.log_model(
            onnx.load(export / "model.onnx"),
            name="ensemble",
            signature=signature,
            pip_requirements=["onnxruntime"],
            save_as_external_data=False,
        )
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"Averaged-logit ensembles for {dataset.name}")
        tags = {"convene.fingerprint": dataset.fingerprint, "convene.valid_loss": str(scored.valid_loss)}
        source = f"models:/{logged.model_id}"
        version = client.create_model_version(name, source, run_id, tags, model_id=logged.model_id).version
    if scored.valid_loss < _champion_loss(client, name, dataset):
        client.set_registered_model_alias(name, "champion", version)


@contextmanager
def _active(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """The run as the one that MLflow's functions work on; what they set for the process is set back."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        with mlflow.start_run(run_id):
            yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None takes it back, as its source says


def _champion_loss(client: "MlflowClient", name: str, dataset: Dataset) -> float:
    """Validation loss of the champion, infinite where there is none for this data."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_model_version_by_alias(name, "champion").tags
    except MlflowException:
        return float("inf")
    if tags.get("convene.fingerprint") != dataset.fingerprint:
        return float("inf")
    return float(tags["convene.valid_loss"])
