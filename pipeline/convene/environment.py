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
    """Of Python and of the packages that the result depends on, as they are recorded."""
    found = {package: _version(package) for package in ("convene", *_RESULTS_DEPEND_ON)}
    # A cluster may have what Convene needs without Convene, which comes with the job.
    return {"python": platform.python_version()} | {p: version for p, version in found.items() if version}


def comparable() -> dict[str, str]:
    """The same as far as two machines must agree: of Python the minor version, of a build what it builds."""
    # Builds for CPUs and for GPUs are one version: 2.13.0+cpu, 2.13.0+cu130.
    packages = {package: _version(package).partition("+")[0] for package in _RESULTS_DEPEND_ON}
    return {"python": ".".join(platform.python_version_tuple()[:2])} | packages


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What is not the same: (there, here) by package, "none" where it is missing."""
    names = [name for name in (*there, *(here.keys() - there.keys())) if there.get(name) != here.get(name)]
    return {name: (there.get(name) or "none", here.get(name) or "none") for name in names}


def requirements(wanted: Mapping[str, str]) -> str:
    """What to ask pip for."""
    return " ".join(f"{package}=={version}" for package, version in wanted.items() if package != "python")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def utc_now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
