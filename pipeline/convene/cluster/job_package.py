"""The files and variables that a job takes to a cluster: no data, no results, no secrets."""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from convene import environment
from convene.cluster.job_entrypoint import SUBMISSION_VARIABLE
from convene.config import search_space
from convene.config.search_space import SearchSpace
from convene.errors import InputError
from convene.redaction import URL_VARIABLES, redact_url
from convene.storage import normalize_root

SEARCH_SPACE_FILE = "search_space.toml"
"""The search space's file name in the job's working directory."""

STOP_SECONDS = 30
"""Seconds that Ray gives a stopped job to end by itself before it kills it."""

# Where services are, never how to log in to them.
_ADDRESS_VARIABLES = (
    *URL_VARIABLES,
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)


def build_working_dir(space: SearchSpace | None, folder: Path) -> None:
    """Write the job's working directory: the installed package, and the search space as resolved."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    shutil.copytree(Path(__file__).parents[1], folder / "convene", ignore=ignore)
    if space:
        (folder / SEARCH_SPACE_FILE).write_text(space.to_toml(), encoding="utf-8")


def resolve_data_path(space: SearchSpace) -> SearchSpace:
    """Return the space with an absolute path to its data if the data are on this machine.

    The job runs in another folder.
    """
    from convene.datasets.sources import NAMED_SOURCES

    source = Path(space.base.data.source)
    if str(source) in NAMED_SOURCES or source.is_absolute() or not source.exists():
        return space
    return search_space.override(space, {"data.source": str(source.absolute())})


def environment_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the job's environment variables: addresses without secrets, and what its entry point checks."""
    addresses = {name: variables[name] for name in _ADDRESS_VARIABLES if variables.get(name)}
    sent = {name: value for name, value in addresses.items() if redact_url(value) == value}
    not_sent = {name: redact_url(value) for name, value in addresses.items() if name not in sent}
    submitted = {"versions": environment.comparable_versions(), "addresses": not_sent}
    return {
        **sent,
        SUBMISSION_VARIABLE: json.dumps(submitted),
        # Ray's default of 3 is too short to end the MLflow runs.
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }


def entrypoint(arguments: Sequence[str]) -> str:
    """Return the shell command that the head runs.

    With `exec`, so that signals reach the sweep and not only its shell.
    """
    return shlex.join(["exec", "python", "-m", "convene.cluster.job_entrypoint", *arguments])


def resolve_storage(storage: str) -> str:
    """Return a storage root as the cluster needs it: an address or an absolute path.

    Raises:
        InputError: if it contains a credential, which the cluster would show, or is neither.
    """
    if "://" in storage and redact_url(storage) != storage:
        raise InputError(
            f"--storage {redact_url(storage)}: contains a credential; set it in the cluster's environment "
            "instead"
        )
    return normalize_root(storage)
