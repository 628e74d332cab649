"""MLflow's own server, on what was recorded under a storage root."""

import os
import socket
import sys
from collections.abc import Sequence
from typing import final

from pipeline import tracking
from pipeline.errors import InputError
from pipeline.storage import Storage

_EVERYWHERE = ("0.0.0.0", "::")


@final
class Server:
    """MLflow's own server on what was recorded under a storage root; or where MLFLOW_TRACKING_URI points.

    Raises:
        InputError: if nothing was recorded yet, or the port is taken.
    """

    def __init__(self, storage: Storage, host: str, port: int, allowed_hosts: Sequence[str] = ()) -> None:
        where = tracking.place(storage)
        self.tracking_uri = where.uri
        self._artifacts = where.artifacts
        self._host, self._port = host, port
        self._names = names(host, port, allowed_hosts)
        self.serves = not where.uri.startswith(("http://", "https://"))
        self.url = f"http://{host}:{port}" if self.serves else where.uri
        if where.artifacts and not storage.exists("mlflow.db"):
            raise InputError(f"storage = {storage.root}: nothing was recorded there yet")
        if self.serves:
            _check_free_port(host, port)

    def serve(self) -> None:
        """Becomes the server, until it is interrupted; returns at once where another one serves already."""
        if not self.serves:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", self.tracking_uri, "--registry-store-uri", self.tracking_uri]
        if self._artifacts:
            command += ["--artifacts-destination", self._artifacts]
        command += ["--host", self._host, "--port", str(self._port)]
        # MLflow's own default takes any name that begins like a private address: 10.example.org.
        command += ["--allowed-hosts", ",".join(self._names)]
        command += ["--cors-allowed-origins", ",".join(f"http://{name}" for name in self._names)]
        sys.stdout.flush()
        os.dup2(2, 1)  # what it has to say is not the answer of this command
        os.execv(sys.executable, command)


def names(host: str, port: int, others: Sequence[str] = ()) -> list[str]:
    """What a browser may call the server: this machine's names, those it listens on, and `others`.

    A page from elsewhere that had its own name point here (DNS rebinding) is not answered.
    """
    known = ["localhost", "127.0.0.1", "::1"]
    if host in _EVERYWHERE:
        name = socket.gethostname()
        known += [name, socket.getfqdn(), *_addresses(name)]
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


def _check_free_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"--host {host} --port {port}: {error.strerror}; choose another --port"
            ) from None
