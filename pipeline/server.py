"""MLflow's own server, on what was recorded under a storage root."""

import os
import socket
import sys
from typing import final

from pipeline import tracking
from pipeline.errors import InputError
from pipeline.storage import Storage


@final
class Server:
    """MLflow's own server on what was recorded under a storage root; or where MLFLOW_TRACKING_URI points.

    Raises:
        InputError: if nothing was recorded yet, or the port is taken.
    """

    def __init__(self, storage: Storage, host: str, port: int) -> None:
        where = tracking.place(storage)
        self.tracking_uri = where.uri
        self._artifacts = where.artifacts
        self._host, self._port = host, port
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
        sys.stdout.flush()
        os.dup2(2, 1)  # what it has to say is not the answer of this command
        os.execv(sys.executable, command)


def _check_free_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"--host {host} --port {port}: {error.strerror}; choose another --port"
            ) from None
