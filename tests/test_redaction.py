"""Secrets of URLs and of the environment are removed."""

import pytest

from convene.redaction import redact, redact_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://user:secret@host:5432/optuna", "postgresql://host:5432/optuna"),
        (
            "postgresql+psycopg2://user:se%40cret@host/optuna?sslmode=require",
            "postgresql+psycopg2://host/optuna?sslmode=require",
        ),
        ("postgresql://host/optuna?user=u&password=secret", "postgresql://host/optuna?user=u"),
        ("postgresql://host/optuna?password=secret", "postgresql://host/optuna"),
        ("https://user:p@ss@host/mlflow/", "https://host/mlflow/"),
        ("https://token@host", "https://host"),
        ("https://host/a@b", "https://host/a@b"),
        ("http://[::1]:5000/a@b", "http://[::1]:5000/a@b"),
        ("http://user:12/34@host", "http://host"),
        ("http://user:ab/cd?e@host:5000/a", "http://host:5000/a"),
        # SQLAlchemy accepts these passwords, and `openssl rand -base64` creates them.
        ("postgresql+psycopg2://convene:ab/cd=@db/optuna", "postgresql+psycopg2://db/optuna"),
        ("postgresql://convene:12/cd@db:5432/optuna", "postgresql://db:5432/optuna"),
        ("postgresql://convene:a b?c[d@db/optuna?user=u", "postgresql://db/optuna?user=u"),
        ("postgresql://convene:ab@cd@db/optuna", "postgresql://db/optuna"),
        ("s3://KEY:ab/cd@bucket/prefix", "s3://bucket/prefix"),
        ("sqlite:////tmp/study.db", "sqlite:////tmp/study.db"),
        ("sqlite:///file:/tmp/s.db?uri=true&password=secret", "sqlite:///file:/tmp/s.db?uri=true"),
        ("/tmp/a folder/mlruns", "/tmp/a folder/mlruns"),
        ("", ""),
    ],
)
def test_secrets_are_removed_from_a_url(url: str, expected: str) -> None:
    assert redact_url(url) == expected


@pytest.mark.parametrize(
    ("name", "value", "text", "expected"),
    [
        ("AWS_SECRET_ACCESS_KEY", "abc/123456", "refused: abc/123456.", "refused: ***."),
        ("AWS_SESSION_TOKEN", "session-1", "with session-1", "with ***"),
        ("MLFLOW_TRACKING_PASSWORD", "hunter22", "user:hunter22@host", "user:***@host"),
        ("RAY_AUTH_TOKEN", "0123456789", "Bearer 0123456789", "Bearer ***"),
        (
            "OPTUNA_STORAGE",
            "postgresql://u:se%40cret@h/d",
            "password se@cret, se%40cret",
            "password ***, ***",
        ),
        ("MLFLOW_TRACKING_URI", "http://u:secret@h", "http://u:secret@h/api", "http://h/api"),
        ("OPTUNA_STORAGE", "postgresql://h/d?password=secret", "password=secret", "password=***"),
        ("HOME", "/root", "no http://u:p@ss@h/api, s3://k@b", "no http://h/api, s3://b"),
        ("OPTUNA_STORAGE", "postgresql://u:ab[cd/12@h/d", "refused: ab[cd/12", "refused: ***"),
        ("OPTUNA_STORAGE", "postgresql://[bad", "postgresql://[bad", "postgresql://[bad"),
        ("HOME", "/root", "GET http://host:5000/a@b", "GET http://host:5000/a@b"),
        ("HOME", "/root", "at postgresql://h:5432 and by a@b", "at postgresql://h:5432 and by a@b"),
        # Values that only look like secrets.
        ("MLFLOW_TRACKING_URI", "http://host:5000", "http://host:5000/api", "http://host:5000/api"),
        ("AWS_ACCESS_KEY_ID", "AKIA123456", "key AKIA123456", "key AKIA123456"),
        ("RAY_AUTH_TOKEN_PATH", "/run/token", "no /run/token", "no /run/token"),
        ("RAY_AUTH_MODE", "disabled", "it is disabled", "it is disabled"),
        ("PWD", "/home/someone", "/home/someone/mlruns", "/home/someone/mlruns"),
        ("DEMO_PASSWORD", "is", "this is it", "this is it"),
    ],
)
def test_secrets_of_the_environment_are_removed(name: str, value: str, text: str, expected: str) -> None:
    assert redact(text, {name: value}) == expected
