"""Defaults and package versions that hold for a whole process. Needs nothing but Python."""

import importlib.metadata
import platform
from collections.abc import Mapping
from datetime import UTC, datetime

DEFAULT_STORAGE = "mlruns"
"""The storage root where none is named, in the working folder."""

ANSWER_SECONDS = 5
"""Timeout, in seconds, for a server's first answer."""

_RESULTS_DEPEND_ON = ("torch", "ray", "optuna", "mlflow", "numpy")


def installed() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on, as recorded."""
    found = {package: _version(package) for package in ("convene", *_RESULTS_DEPEND_ON)}
    # A cluster may lack Convene itself, which travels with the job.
    return {"python": platform.python_version()} | {p: version for p, version in found.items() if version}


def comparable() -> dict[str, str]:
    """Return the versions that two machines must share: Python's minor one, packages without their build."""
    # Builds for CPUs and GPUs have one version: 2.13.0+cpu, 2.13.0+cu130.
    packages = {package: _version(package).partition("+")[0] for package in _RESULTS_DEPEND_ON}
    return {"python": ".".join(platform.python_version_tuple()[:2])} | packages


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the differing versions (there, here) by package, with "none" for a missing one."""
    names = [name for name in (*there, *(here.keys() - there.keys())) if there.get(name) != here.get(name)]
    return {name: (there.get(name) or "none", here.get(name) or "none") for name in names}


def requirements(wanted: Mapping[str, str]) -> str:
    """Return the requirements to pass to pip."""
    return " ".join(f"{package}=={version}" for package, version in wanted.items() if package != "python")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def utc_now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
