"""Credentials that are planted, to be looked for afterwards."""

from pathlib import Path

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted/secret/of/aws",
    "AWS_SESSION_TOKEN": "planted-session-of-aws",
    "MLFLOW_TRACKING_USERNAME": "someone",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-mlflow",
}


def assert_nothing_planted(said: str, *folders: Path) -> None:
    """No secret in what was said, and in no file; databases are files too."""
    assert "planted" not in said
    for folder in folders:
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert files, folder
        for file in files:
            assert b"planted" not in file.read_bytes(), file
