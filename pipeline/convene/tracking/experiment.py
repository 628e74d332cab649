"""The MLflow experiment of a data set, with its description and its views."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.records.sweep_record import SweepMetadata
from convene.redaction import redact, redact_url
from convene.tracking import descriptions

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWEEPS, LEADERBOARD = "convene", "convene-leaderboard"
"""Keys of the views in the `Views` menu of an experiment's page."""

_VIEW_TAG = "mlflow.sharedViewState."  # prefix; the view's key follows, which `viewStateShareKey` selects
_METRICS = ("valid_accuracy", "valid_loss", "test_accuracy")
_TAGS = ("convene.rank", "convene.weight")
_PAGE_QUERY = "?workflowType=machine_learning"  # not the pages for language models


@dataclass(frozen=True)
class TrackingLocation:
    """Where MLflow stores runs and artifacts."""

    uri: str
    """The tracking URI, which may contain a password."""
    artifacts: str | None
    """Address of the artifact folder; None if a server manages artifacts."""

    @property
    def is_server(self) -> bool:
        """Return whether the URI names a server, not a database or a folder."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def redacted_uri(self) -> str:
        """Return the URI without credentials, for messages and records."""
        return redact_url(self.uri)


def first_line(error: Exception) -> str:
    """Return the first line of an error from MLflow, without secrets."""
    return redact(f"{type(error).__name__}: {error}".splitlines()[0])


@contextmanager
def database_lock(uri: str) -> Iterator[None]:
    """Let one process at a time open an SQLite database; two would both create its tables.

    Does nothing for other kinds of URI.
    """
    path = unquote(uri.partition("?")[0].removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not Path(path).parent.is_dir():
        yield
        return
    with Path(f"{path}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed or the process ends
        yield


def open_experiment(location: TrackingLocation, dataset: Dataset) -> tuple["MlflowClient", str]:
    """Return a client and the id of the data set's experiment, which is created if it does not exist."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with database_lock(location.uri):
        client = MlflowClient(location.uri)
        found = client.get_experiment_by_name(dataset.name)
        if found is None:
            try:
                return client, client.create_experiment(dataset.name, artifact_location=location.artifacts)
            except MlflowException:  # another sweep created it first, through the same server
                found = client.get_experiment_by_name(dataset.name)
                if found is None:
                    raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return client, str(found.experiment_id)


def set_tags(
    client: "MlflowClient", experiment_id: str, space: SearchSpace, metadata: SweepMetadata, dataset: Dataset
) -> None:
    """Set the experiment's views, with the columns of this sweep, and its description if it has none."""
    links = {
        "Sweeps and their trials": view_page(experiment_id, SWEEPS),
        "Leaderboard": view_page(experiment_id, LEADERBOARD),
    }
    tags = {
        "mlflow.experimentKind": "custom_model_development",
        descriptions.NOTE: descriptions.experiment(dataset, links),
        **view_tags(space, metadata),
    }
    existing = client.get_experiment(experiment_id).tags
    for name, value in tags.items():
        # Only views are overwritten: a user may have edited the description.
        if existing.get(name) != value and (name.startswith(_VIEW_TAG) or name not in existing):
            client.set_experiment_tag(experiment_id, name, value)


def view_tags(space: SearchSpace, metadata: SweepMetadata) -> dict[str, str]:
    """Return the tags that define an experiment's views: two in the `Views` menu and one for the sweep.

    The format is that of MLflow 3.17 for views saved by users. Its page nests trials under their sweeps only
    if it is sorted by time, which is the default.
    """
    columns = [f"metrics.`{name}`" for name in _METRICS] + [f"params.`{name}`" for name in space.searched]
    columns += [f"tags.`{name}`" for name in _TAGS]
    search = space.base.search
    finished = "attributes.status = 'FINISHED' and tags.`convene.part` != 'sweep'"
    order = {"orderByKey": f"metrics.`{search.primary_objective}`", "orderByAsc": search.minimize}
    leaderboard = {"selectedColumns": columns, "searchFilter": finished, **order}
    return {
        _VIEW_TAG + SWEEPS: _menu_view("Sweeps", metadata, {"selectedColumns": columns}),
        _VIEW_TAG + LEADERBOARD: _menu_view("Leaderboard", metadata, leaderboard),
        # Without a name, so that sweeps do not fill the menu.
        _VIEW_TAG + metadata.id: json.dumps(
            leaderboard | {"searchFilter": f"{finished} and tags.`convene.id` = '{metadata.id}'"}
        ),
    }


def _menu_view(name: str, metadata: SweepMetadata, state: Mapping[str, Any]) -> str:
    """Return the tag value of a view with a name in the menu."""
    from datetime import datetime

    created = round(datetime.fromisoformat(metadata.created).timestamp() * 1000)
    content = {"name": name, "createdAt": created, "updatedAt": created, "state": json.dumps(state)}
    return json.dumps(content)


def view_page(experiment_id: str, key: str) -> str:
    """Return the page of one view of an experiment, relative to the server's address."""
    return f"#/experiments/{experiment_id}/runs{_PAGE_QUERY}&viewStateShareKey={key}"


def run_page(experiment_id: str, run_id: str) -> str:
    """Return the page of a run, relative to the server's address."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{_PAGE_QUERY}"


def model_page(name: str) -> str:
    """Return the page of a registered model, relative to the server's address."""
    return f"#/models/{name}{_PAGE_QUERY}"


def sweep_page(location: TrackingLocation, metadata: SweepMetadata, *, run: bool) -> str | None:
    """Return the page of a sweep's own run, or else of all sweeps on the same data set.

    Returns:
        The page relative to the server's address, or None if MLflow does not have it.
    """
    from mlflow import MlflowClient

    with database_lock(location.uri):
        client = MlflowClient(location.uri)
        found = client.get_experiment_by_name(metadata.dataset)
    if found is None:
        return None
    if not run:
        return view_page(found.experiment_id, SWEEPS)
    runs = client.search_runs([found.experiment_id], run_filter(metadata, "sweep"), max_results=1)
    return run_page(found.experiment_id, runs[0].info.run_id) if runs else None


def run_filter(metadata: SweepMetadata, part: str = "") -> str:
    """Return MLflow's search filter for the runs of a sweep, or for one part of it; see `RunIndex`."""
    all_parts = f"tags.`convene.id` = '{metadata.id}'"
    return f"{all_parts} and tags.`convene.part` = '{part}'" if part else all_parts
