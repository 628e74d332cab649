"""Defaults and package versions of a process. Imports the standard library only."""

import importlib.metadata
import platform
from collections.abc import Mapping
from datetime import UTC, datetime

DEFAULT_STORAGE = "mlruns"
"""The default storage root, relative to the working folder."""

ANSWER_SECONDS = 5
"""Timeout, in seconds, for a server's first answer."""

_RESULTS_DEPEND_ON = ("torch", "ray", "optuna", "mlflow", "numpy")


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on, as recorded."""
    found = {package: _version(package) for package in ("convene", *_RESULTS_DEPEND_ON)}
    # A cluster may lack Convene itself, which is sent with the job.
    return {"python": platform.python_version()} | {p: version for p, version in found.items() if version}


def comparable_versions() -> dict[str, str]:
    """Return the versions that two machines must share: minor version of Python, packages without builds."""
    # Builds for CPUs and GPUs have one version: 2.13.0+cpu, 2.13.0+cu130.
    packages = {package: _version(package).partition("+")[0] for package in _RESULTS_DEPEND_ON}
    return {"python": ".".join(platform.python_version_tuple()[:2])} | packages


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the differing versions (there, here) by package, with "none" for a missing one."""
    names = [name for name in (*there, *(here.keys() - there.keys())) if there.get(name) != here.get(name)]
    return {name: (there.get(name) or "none", here.get(name) or "none") for name in names}


def pip_requirements(versions: Mapping[str, str]) -> str:
    """Return the packages as arguments of `pip install`."""
    return " ".join(f"{package}=={version}" for package, version in versions.items() if package != "python")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def utc_now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
