"""MLflow's pages answer to this machine's names alone."""

import socket

import pytest

from convene.tracking.ui_server import _outward, names

OWN = socket.gethostname()


@pytest.mark.parametrize(
    ("host", "others", "asked", "answered"),
    [
        ("127.0.0.1", [], "localhost:5000", True),
        ("127.0.0.1", [], "127.0.0.1:5000", True),
        ("127.0.0.1", [], "[::1]:5000", True),
        ("127.0.0.1", [], "localhost", True),  # through a tunnel from port 80
        ("127.0.0.1", [], f"{OWN}:5000", False),
        ("192.168.7.7", [], "192.168.7.7:5000", True),
        ("0.0.0.0", [], f"{OWN}:5000", True),
        ("0.0.0.0", [], "localhost:5000", True),
        ("0.0.0.0", [], f"{_outward()}:5000", True),
        ("0.0.0.0", [], "mlflow.example.org:5000", False),
        ("0.0.0.0", ["mlflow.example.org"], "mlflow.example.org:5000", True),
        ("0.0.0.0", ["mlflow.example.org"], "mlflow.example.org", True),
        ("0.0.0.0", ["mlflow.example.org:8443"], "mlflow.example.org:8443", True),
        ("0.0.0.0", ["mlflow.example.org:8443"], "mlflow.example.org:5000", False),
        # A name that begins like a private address is anybody's.
        ("0.0.0.0", [], "10.example.org:5000", False),
        ("0.0.0.0", [], "192.168.example.org:5000", False),
    ],
)
def test_what_a_browser_may_call_the_server(host: str, others: list[str], asked: str, answered: bool) -> None:
    # MLflow compares whole names where there is no star in them.
    allowed = names(host, 5000, others)
    assert not any("*" in name for name in allowed)
    assert (asked in allowed) == answered
