"""The host names under which browsers may open MLflow's pages."""

import socket

import pytest

from convene.tracking.ui_server import _outbound_address, allowed_names

OWN = socket.gethostname()


@pytest.mark.parametrize(
    ("host", "others", "name", "allowed"),
    [
        ("127.0.0.1", [], "localhost:5000", True),
        ("127.0.0.1", [], "127.0.0.1:5000", True),
        ("127.0.0.1", [], "[::1]:5000", True),
        ("127.0.0.1", [], "localhost", True),  # through a tunnel on port 80
        ("127.0.0.1", [], f"{OWN}:5000", False),
        ("192.168.7.7", [], "192.168.7.7:5000", True),
        ("0.0.0.0", [], f"{OWN}:5000", True),
        ("0.0.0.0", [], "localhost:5000", True),
        ("0.0.0.0", [], f"{_outbound_address()}:5000", True),
        ("0.0.0.0", [], "mlflow.example.org:5000", False),
        ("0.0.0.0", ["mlflow.example.org"], "mlflow.example.org:5000", True),
        ("0.0.0.0", ["mlflow.example.org"], "mlflow.example.org", True),
        ("0.0.0.0", ["mlflow.example.org:8443"], "mlflow.example.org:8443", True),
        ("0.0.0.0", ["mlflow.example.org:8443"], "mlflow.example.org:5000", False),
        # Anybody can own a name that begins like a private address.
        ("0.0.0.0", [], "10.example.org:5000", False),
        ("0.0.0.0", [], "192.168.example.org:5000", False),
    ],
)
def test_the_names_that_browsers_may_use(host: str, others: list[str], name: str, allowed: bool) -> None:
    names = allowed_names(host, 5000, others)
    # MLflow compares whole names if they contain no star.
    assert not any("*" in each for each in names)
    assert (name in names) == allowed
