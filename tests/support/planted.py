"""Planted credentials, and a search for leaks of them."""

from pathlib import Path

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted/secret/of/aws",
    "AWS_SESSION_TOKEN": "planted-session-of-aws",
    "MLFLOW_TRACKING_USERNAME": "someone",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-mlflow",
}


def assert_nothing_planted(output: str, *folders: Path) -> None:
    """Assert that no secret is in the output or in a file of the folders, databases included."""
    assert "planted" not in output
    for folder in folders:
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert files, folder
        for file in files:
            assert b"planted" not in file.read_bytes(), file
