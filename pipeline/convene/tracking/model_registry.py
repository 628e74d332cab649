"""MLflow's model registry: the ensembles of each data set, with the best one as `champion`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convene.datasets import Dataset
from convene.records.result import Scores
from convene.records.sweep_record import SweepRecord
from convene.tracking import descriptions

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature


def register(
    client: "MlflowClient",
    run_id: str,
    export: Path,
    record: SweepRecord,
    dataset: Dataset,
    scores: Scores,
) -> str:
    """Log an export to its run, and register its ONNX file as a version of the data set's model.

    The version with the lowest validation loss on the same data becomes `champion`. The test set plays no
    part in that choice.

    Returns:
        The URI of the version, such as `models:/digits-ensemble/3`.
    """
    name = descriptions.model_name(dataset)
    if registered := client.search_model_versions(f"run_id = '{run_id}'"):
        version = registered[0]
    else:
        with _active_run(client, run_id):
            model_id = _log_model(client, run_id, export, dataset)
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name, description=descriptions.model(dataset))
            version = client.create_model_version(
                name,
                f"models:/{model_id}",
                run_id,
                {
                    "convene.fingerprint": dataset.fingerprint,
                    "convene.valid_loss": str(scores.ensemble.valid_loss),
                },
                description=descriptions.version(record, dataset, scores),
                model_id=model_id,
            )
    if scores.ensemble.valid_loss < _champion_loss(client, name, dataset):
        client.set_registered_model_alias(name, "champion", version.version)
    return f"models:/{version.name}/{version.version}"


def _log_model(client: "MlflowClient", run_id: str, export: Path, dataset: Dataset) -> str:
    """Log the folder and its ONNX file to the active run, and return the id of the logged model."""
    import mlflow
    import onnx

    client.log_artifacts(run_id, str(export), "export")
    logged = mlflow.onnx.log_model(
        onnx.load(export / "model.onnx"),
        name="ensemble",
        signature=_signature(dataset),
        pip_requirements=["onnxruntime"],
        save_as_external_data=False,
    )
    return str(logged.model_id)


def _signature(dataset: Dataset) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    output_shape = (-1, len(dataset.classes))
    return ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, *dataset.image_shape), "images")]),
        Schema(
            [TensorSpec(np.dtype(np.float32), output_shape, name) for name in ("logits", "probabilities")]
        ),
    )


@contextmanager
def _active_run(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """Make the run active for MLflow's global functions, and restore the process's settings afterwards."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        with mlflow.start_run(run_id):
            yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None resets it, see its source


def _champion_loss(client: "MlflowClient", name: str, dataset: Dataset) -> float:
    """Return the champion's validation loss, or infinity if there is no champion for this data."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_model_version_by_alias(name, "champion").tags
    except MlflowException:
        return float("inf")
    if tags.get("convene.fingerprint") != dataset.fingerprint:
        return float("inf")
    return float(tags["convene.valid_loss"])
