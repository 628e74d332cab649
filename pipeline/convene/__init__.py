"""From labelled images to a scored, exported ensemble of convolutional networks.

The names below are the Python equivalents of the commands.
"""

import os
from typing import TYPE_CHECKING, Any

# Before PyTorch loads: waiting threads sleep instead of spinning. On a machine with other work this makes
# scoring two to three times as fast; on an idle one it costs a few percent.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Before Ray loads: use a token that is in the environment. Ray itself uses it only for a cluster that it
# finds by itself, not at a given address.
if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

if TYPE_CHECKING:
    from convene.errors import InputError, WorkError
    from convene.export.inference import predict
    from convene.records.listing import list_sweeps
    from convene.records.result import SweepResult
    from convene.sweep.recorded_sweep import export_ensemble, rebuild_ensemble, sync_sweep, write_report
    from convene.sweep.run import resume_sweep, run_sweep

__all__ = [
    "InputError",
    "SweepResult",
    "WorkError",
    "export_ensemble",
    "list_sweeps",
    "predict",
    "rebuild_ensemble",
    "resume_sweep",
    "run_sweep",
    "sync_sweep",
    "write_report",
]

_MODULES = {
    "InputError": "errors",
    "SweepResult": "records.result",
    "WorkError": "errors",
    "predict": "export.inference",
    "export_ensemble": "sweep.recorded_sweep",
    "list_sweeps": "records.listing",
    "rebuild_ensemble": "sweep.recorded_sweep",
    "resume_sweep": "sweep.run",
    "sync_sweep": "sweep.recorded_sweep",
    "run_sweep": "sweep.run",
    "write_report": "sweep.recorded_sweep",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package costs nothing."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
