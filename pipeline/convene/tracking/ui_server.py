"""MLflow's web interface for the sweeps under a storage root."""

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

_ALL_INTERFACES = ("0.0.0.0", "::")


@final
class Server:
    """MLflow's server for a storage root, or the server that MLFLOW_TRACKING_URI names.

    Args:
        storage: the storage root.
        host: the address to listen on.
        port: the port to listen on.
        allowed_hosts: further host names that browsers may use.
        name: the sweep whose page becomes `url`. Without it, `url` is the page of the experiment of the
            newest sweep.

    Raises:
        InputError: if the sweep does not exist, nothing is recorded yet, or the port is in use.
    """

    def __init__(
        self,
        storage: Storage,
        host: str,
        port: int,
        allowed_hosts: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        record = SweepRecord.open(storage, name) if name else _newest_sweep(storage)
        location = tracker.tracking_location(storage)
        if location.artifacts and not storage.exists("mlflow.db"):
            raise InputError(f"storage = {storage.root}: nothing is recorded there yet")
        self.tracking_uri = location.redacted_uri
        self._location, self._host, self._port = location, host, port
        self._allowed_names = allowed_names(host, port, allowed_hosts)
        shown_host = _outbound_address() if host in _ALL_INTERFACES else host
        address = f"http://[{shown_host}]:{port}" if ":" in shown_host else f"http://{shown_host}:{port}"
        self.must_start = not location.is_server and _must_start(location.uri, address, host, port)
        page = experiment.sweep_page(location, record.about, run=bool(name)) if record else ""
        if page is None and name and record:
            raise InputError(f"sweep {name}: not found in MLflow; write it with: {record.command('sync')}")
        self.url = f"{location.redacted_uri.rstrip('/') if location.is_server else address}/{page or ''}"

    def serve(self) -> None:
        """Replace this process by the server. Return at once if a server is running already."""
        if not self.must_start:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        if self._location.artifacts:
            command += ["--artifacts-destination", self._location.artifacts]
        command += ["--host", self._host, "--port", str(self._port)]
        # MLflow's default accepts any name that begins like a private address, such as 10.example.org.
        command += ["--allowed-hosts", ",".join(self._allowed_names)]
        command += ["--cors-allowed-origins", ",".join(f"http://{name}" for name in self._allowed_names)]
        sys.stdout.flush()
        os.dup2(2, 1)  # the server's log must not mix with this command's output
        os.execve(sys.executable, command, {**os.environ, **self._environment()})

    def _environment(self) -> dict[str, str]:
        """Return the server's environment variables."""
        # The URI may contain a password, and every user of the machine can see command-line arguments.
        uris = dict.fromkeys(("MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI"), self._location.uri)
        # Job execution starts nine more processes, for language models.
        jobs = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
        return {**uris, jobs: os.environ.get(jobs, "false")}


def allowed_names(host: str, port: int, others: Sequence[str] = ()) -> list[str]:
    """Return the host names that browsers may use for the server, with and without the port.

    These are the names of this machine, the address it listens on, and `others`. A foreign name that resolves
    to this machine (DNS rebinding) is rejected.
    """
    known = ["localhost", "127.0.0.1", "::1"]
    if host in _ALL_INTERFACES:
        name = socket.gethostname()
        known += [name, socket.getfqdn(), *_addresses(name), _outbound_address()]
    else:
        known.append(host)
    host_names = [f"[{name}]" if ":" in name else name for name in known]
    with_port = [name for name in others if ":" in name]
    host_names += [name for name in others if ":" not in name]
    # Browsers omit the default port 80, which a proxy or a tunnel may use.
    both_forms = [form for name in host_names for form in (f"{name}:{port}", name)]
    return list(dict.fromkeys([*with_port, *both_forms]))


def _addresses(name: str) -> list[str]:
    """Return the addresses that a host name resolves to."""
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None)})
    except OSError:
        return []


def _outbound_address() -> str:
    """Return the address that this machine uses to reach others, or 127.0.0.1. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # in a network reserved for documentation, RFC 5737
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _newest_sweep(storage: Storage) -> SweepRecord | None:
    """Return the record of the newest sweep, or None if there are no sweeps."""
    sweeps = [SweepRecord(storage, name) for name in sweep_record.names(storage)]
    return max(sweeps, key=lambda record: record.about.created, default=None)


def _must_start(uri: str, address: str, host: str, port: int) -> bool:
    """Return whether a server must be started: False if one serves the same database at this port.

    Raises:
        InputError: if something else uses the port.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            created = _remote_creation_time(address)
            if created is not None and created == _local_creation_time(uri):
                return False
            raise InputError(
                f"--host {host} --port {port}: {error.strerror}; choose another --port"
            ) from None
    return True


def _remote_creation_time(address: str) -> int | None:
    """Return when a server's first experiment was created, in milliseconds; None if it does not answer.

    The time identifies a database.
    """
    try:
        page = f"{address}/api/2.0/mlflow/experiments/get?experiment_id=0"
        with urllib.request.urlopen(page, timeout=ANSWER_SECONDS) as answer:
            return int(json.load(answer)["experiment"]["creation_time"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _local_creation_time(uri: str) -> int:
    """Return when the first experiment of a database was created, in milliseconds."""
    from mlflow import MlflowClient

    return int(MlflowClient(uri).get_experiment("0").creation_time or 0)
