"""From labelled images to a scored, exported ensemble of convolutional networks.

The names below do from Python what the command's verbs do.
"""

import os
from typing import TYPE_CHECKING, Any

# Before PyTorch loads: threads that wait sleep instead of spinning, which on a machine with other work makes
# scoring two to three times as fast and on an idle one costs a few percent.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Before Ray loads: a token that is in the environment is there to be used. Ray itself uses it only where it
# finds a cluster by itself, not at an address that it is given.
if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

if TYPE_CHECKING:
    from convene.errors import InputError, WorkError
    from convene.export.inference import predict
    from convene.records.listing import list_sweeps
    from convene.records.result import SweepResult
    from convene.sweep.recorded import export_ensemble, rebuild_ensemble, sync_sweep, write_report
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

_HOMES = {
    "InputError": "errors",
    "SweepResult": "records.result",
    "WorkError": "errors",
    "predict": "export.inference",
    "export_ensemble": "sweep.recorded",
    "list_sweeps": "records.listing",
    "rebuild_ensemble": "sweep.recorded",
    "resume_sweep": "sweep.run",
    "sync_sweep": "sweep.recorded",
    "run_sweep": "sweep.run",
    "write_report": "sweep.recorded",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that importing the package costs nothing."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
