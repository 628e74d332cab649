"""MLflow's own server, on what was recorded under a storage root."""

import json
import os
import socket
import sys
import urllib.request
from collections.abc import Sequence
from typing import final

from convene.environment import ANSWER_SECONDS
from convene.errors import InputError
from convene.records import sweep_record
from convene.records.sweep_record import SweepRecord
from convene.storage import Storage
from convene.tracking import experiment, tracker

_EVERYWHERE = ("0.0.0.0", "::")


@final
class Server:
    """MLflow's own server on what was recorded under a storage root; or where MLFLOW_TRACKING_URI points.

    `url` is the page of the sweep that is named, or else of all sweeps on the data of the newest one.

    Raises:
        InputError: if there is no such sweep, nothing was recorded yet, or the port is taken.
    """

    def __init__(
        self,
        storage: Storage,
        host: str,
        port: int,
        allowed_hosts: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        record = SweepRecord.open(storage, name) if name else _newest(storage)
        where = tracker.place(storage)
        if where.artifacts and not storage.exists("mlflow.db"):
            raise InputError(f"storage = {storage.root}: nothing was recorded there yet")
        self.tracking_uri = where.shown
        self._where, self._host, self._port = where, host, port
        self._names = names(host, port, allowed_hosts)
        called = _outward() if host in _EVERYWHERE else host
        at = f"http://[{called}]:{port}" if ":" in called else f"http://{called}:{port}"
        self.serves = not where.is_server and _is_to_start(where.uri, at, host, port)
        page = experiment.page(where, record.about, run=bool(name)) if record else ""
        if page is None and name and record:
            raise InputError(
                f"sweep {name}: MLflow has no record of it; write it with: {record.command('sync')}"
            )
        self.url = f"{where.shown.rstrip('/') if where.is_server else at}/{page or ''}"

    def serve(self) -> None:
        """Becomes the server, until it is interrupted; returns at once where another one serves already."""
        if not self.serves:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        if self._where.artifacts:
            command += ["--artifacts-destination", self._where.artifacts]
        command += ["--host", self._host, "--port", str(self._port)]
        # MLflow's own default takes any name that begins like a private address: 10.example.org.
        command += ["--allowed-hosts", ",".join(self._names)]
        command += ["--cors-allowed-origins", ",".join(f"http://{name}" for name in self._names)]
        sys.stdout.flush()
        os.dup2(2, 1)  # what it has to say is not the answer of this command
        os.execve(sys.executable, command, {**os.environ, **self._settings()})

    def _settings(self) -> dict[str, str]:
        # Not among the arguments, which all users of the machine can see: there may be a password in it.
        uris = dict.fromkeys(("MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI"), self._where.uri)
        # Nine more processes, for what MLflow does with language models.
        jobs = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
        return {**uris, jobs: os.environ.get(jobs, "false")}


def names(host: str, port: int, others: Sequence[str] = ()) -> list[str]:
    """What a browser may call the server: this machine's names, those it listens on, and `others`.

    A page from elsewhere that had its own name point here (DNS rebinding) is not answered.
    """
    known = ["localhost", "127.0.0.1", "::1"]
    if host in _EVERYWHERE:
        name = socket.gethostname()
        known += [name, socket.getfqdn(), *_addresses(name), _outward()]
    else:
        known.append(host)
    written = [f"[{name}]" if ":" in name else name for name in known]
    whole = [name for name in others if ":" in name]
    written += [name for name in others if ":" not in name]
    # Browsers leave out the port of the web, 80, where a proxy or a tunnel has it.
    return list(dict.fromkeys([*whole, *(each for name in written for each in (f"{name}:{port}", name))]))


def _addresses(name: str) -> list[str]:
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None)})
    except OSError:
        return []


def _outward() -> str:
    """This machine's address on the way to others, if there is one; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of a network that is for examples alone, RFC 5737
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _newest(storage: Storage) -> SweepRecord | None:
    sweeps = [SweepRecord(storage, name) for name in sweep_record.names(storage)]
    return max(sweeps, key=lambda record: record.about.created, default=None)


def _is_to_start(uri: str, at: str, host: str, port: int) -> bool:
    """Whether a server is to be started; False where one serves the same records at this port.

    Raises:
        InputError: if something else has the port.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            birth = _birth(at)
            if birth is not None and birth == _own_birth(uri):
                return False
            raise InputError(
                f"--host {host} --port {port}: {error.strerror}; choose another --port"
            ) from None
    return True


def _birth(address: str) -> int | None:
    """When the first experiment behind a server was made, to the millisecond; None where it does not tell."""
    try:
        page = f"{address}/api/2.0/mlflow/experiments/get?experiment_id=0"
        with urllib.request.urlopen(page, timeout=ANSWER_SECONDS) as answer:
            return int(json.load(answer)["experiment"]["creation_time"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _own_birth(uri: str) -> int:
    from mlflow import MlflowClient

    return int(MlflowClient(uri).get_experiment("0").creation_time or 0)
