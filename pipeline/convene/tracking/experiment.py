"""MLflow's experiment of a data set: found, or made, with a description and views of what matters in it."""

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
"""Keys of the views that an experiment has in MLflow's menu `Views`."""

_VIEW = "mlflow.sharedViewState."  # of an experiment: a view, by its key, that `viewStateShareKey` asks for
_METRICS = ("valid_accuracy", "valid_loss", "test_accuracy")
_TAGS = ("convene.rank", "convene.weight")
_PAGE = "?workflowType=machine_learning"  # rather than what MLflow has for language models


@dataclass(frozen=True)
class TrackingPlace:
    """Where MLflow records: the URI, and where artifacts go that no server takes."""

    uri: str
    artifacts: str | None

    @property
    def is_server(self) -> bool:
        """Whether it is a server, rather than a database or a folder."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def shown(self) -> str:
        """The URI as it may be shown and recorded: without its password."""
        return redact_url(self.uri)


def first_line(error: Exception) -> str:
    """What an error of MLflow says, on one line and without secrets."""
    return redact(f"{type(error).__name__}: {error}".splitlines()[0])


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """One process at a time, where the URI is that of an SQLite file: two would both make its tables."""
    path = unquote(uri.partition("?")[0].removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not Path(path).parent.is_dir():
        yield
        return
    with Path(f"{path}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # which ends with the file, or with the process
        yield


def connect(where: TrackingPlace, dataset: Dataset) -> tuple["MlflowClient", str]:
    """A client, and the id of the data set's experiment, which is made where there is none."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with alone(where.uri):
        client = MlflowClient(where.uri)
        found = client.get_experiment_by_name(dataset.name)
        if found is None:
            try:
                return client, client.create_experiment(dataset.name, artifact_location=where.artifacts)
            except MlflowException:  # another sweep, through the same server, was quicker
                found = client.get_experiment_by_name(dataset.name)
                if found is None:
                    raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return client, str(found.experiment_id)


def show(
    client: "MlflowClient", experiment_id: str, space: SearchSpace, about: SweepMetadata, dataset: Dataset
) -> None:
    """Gives the experiment its views, with the columns of this sweep, and a description where it has none."""
    links = {"Sweeps with their trials": view_page(experiment_id, SWEEPS)}
    links["Leaderboard"] = view_page(experiment_id, LEADERBOARD)
    wanted = {
        "mlflow.experimentKind": "custom_model_development",
        descriptions.NOTE: descriptions.experiment(dataset, links),
        **views(space, about),
    }
    has = client.get_experiment(experiment_id).tags
    for name, value in wanted.items():
        # What a person wrote stays.
        if has.get(name) != value and (name.startswith(_VIEW) or name not in has):
            client.set_experiment_tag(experiment_id, name, value)


def views(space: SearchSpace, about: SweepMetadata) -> dict[str, str]:
    """Tags of an experiment that are views of it: two in the menu `Views`, and the sweep's own leaderboard.

    They are written as MLflow's page (3.17) writes those that a person saves. It nests trials under their
    sweeps only where it is sorted by time, as it is by default.
    """
    columns = [f"metrics.`{name}`" for name in _METRICS] + [f"params.`{name}`" for name in space.searched]
    columns += [f"tags.`{name}`" for name in _TAGS]
    search = space.base.search
    ended = "attributes.status = 'FINISHED' and tags.`convene.part` != 'sweep'"
    order = {"orderByKey": f"metrics.`{search.primary_objective}`", "orderByAsc": search.minimize}
    best = {"selectedColumns": columns, "searchFilter": ended, **order}
    return {
        _VIEW + SWEEPS: _named("Sweeps", about, {"selectedColumns": columns}),
        _VIEW + LEADERBOARD: _named("Leaderboard", about, best),
        # Without a name: the menu would fill with sweeps.
        _VIEW + about.id: json.dumps(
            best | {"searchFilter": f"{ended} and tags.`convene.id` = '{about.id}'"}
        ),
    }


def _named(name: str, about: SweepMetadata, state: Mapping[str, Any]) -> str:
    """A view as the menu lists it."""
    from datetime import datetime

    created = round(datetime.fromisoformat(about.created).timestamp() * 1000)
    content = {"name": name, "createdAt": created, "updatedAt": created, "state": json.dumps(state)}
    return json.dumps(content)


def view_page(experiment_id: str, key: str) -> str:
    """The page of an experiment in one of its views, from the server's address on."""
    return f"#/experiments/{experiment_id}/runs{_PAGE}&viewStateShareKey={key}"


def run_page(experiment_id: str, run_id: str) -> str:
    """The page of a run, from the server's address on."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{_PAGE}"


def model_page(name: str) -> str:
    """The page of a registered model, from the server's address on."""
    return f"#/models/{name}{_PAGE}"


def page(where: TrackingPlace, about: SweepMetadata, *, run: bool) -> str | None:
    """The page of a sweep's own run, or of all sweeps on the same data; None where MLflow has none."""
    from mlflow import MlflowClient

    with alone(where.uri):
        client = MlflowClient(where.uri)
        found = client.get_experiment_by_name(about.dataset)
    if found is None:
        return None
    if not run:
        return view_page(found.experiment_id, SWEEPS)
    runs = client.search_runs([found.experiment_id], part_of(about, "sweep"), max_results=1)
    return run_page(found.experiment_id, runs[0].info.run_id) if runs else None


def part_of(about: SweepMetadata, part: str = "") -> str:
    """What to search for: the run of a part of a sweep: "sweep", "ensemble …" or a trial's number; or all."""
    wanted = f"tags.`convene.id` = '{about.id}'"
    return f"{wanted} and tags.`convene.part` = '{part}'" if part else wanted
