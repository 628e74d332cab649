"""What travels to a cluster with a sweep: the package and the search space; never data, results, secrets."""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from convene import environment
from convene.cluster.job_entrypoint import SUBMITTED
from convene.config import search_space
from convene.config.search_space import SearchSpace
from convene.errors import InputError
from convene.redaction import ADDRESSES, redact_url
from convene.storage import normalize_root

SPACE = "search_space.toml"
"""The search space's name among what travels."""

STOP_WITHIN = 30
"""Seconds that a job has to end in good order before Ray kills it."""

# Where a store is, never how to get in.
_PLACES = (*ADDRESSES, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")


def pack(space: SearchSpace | None, folder: Path) -> None:
    """Lays out what travels: the package, from wherever it is installed, and the search space as resolved."""
    leave = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    shutil.copytree(Path(__file__).parents[1], folder / "convene", ignore=leave)
    if space:
        (folder / SPACE).write_text(space.to_toml(), encoding="utf-8")


def at_home(space: SearchSpace) -> SearchSpace:
    """The space with a path to data on this machine made whole: the job runs in another folder."""
    from convene.datasets.download import ARCHIVES

    source = Path(space.base.data.source)
    known = str(source) == "digits" or str(source) in ARCHIVES
    if known or source.is_absolute() or not source.exists():
        return space
    return search_space.override(space, {"data.source": str(source.absolute())})


def environment_variables(here: Mapping[str, str]) -> dict[str, str]:
    """The job's variables: what it was submitted from, and the places that hold no secret."""
    places = {name: here[name] for name in _PLACES if here.get(name)}
    travel = {name: value for name, value in places.items() if redact_url(value) == value}
    stay = {name: redact_url(value) for name, value in places.items() if name not in travel}
    submitted = {"versions": environment.comparable(), "addresses": stay}
    return {
        **travel,
        SUBMITTED: json.dumps(submitted),
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WITHIN),  # 3 by default: too few to close the runs in MLflow
    }


def command(words: Sequence[str]) -> str:
    """What the head runs. `exec`, so that a signal reaches the sweep and not its shell alone."""
    return shlex.join(["exec", "python", "-m", "convene.cluster.job_entrypoint", *words])


def place(storage: str) -> str:
    """A storage root as the cluster is to see it: an address, or a whole path.

    Raises:
        InputError: if there is a credential in it, which the cluster would show, or it is neither.
    """
    if "://" in storage and redact_url(storage) != storage:
        raise InputError(
            f"--storage {redact_url(storage)}: holds a credential; leave that to the cluster's environment"
        )
    return normalize_root(storage)
