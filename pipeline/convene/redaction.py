"""Removal of secrets from URLs and texts: logins, and values of secret environment variables."""

import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

# Names of environment variables, and keys in the query of a URL, that hold secrets.
_SECRET = re.compile(r"password|passwd|pwd|secret|token|access_key|api_?key|credential", re.IGNORECASE)
_NO_SECRET = re.compile(r"_(PATH|FILE|MODE|URI|URL|ID)$|^(OLD)?PWD$")
_MIN_LENGTH = 6  # characters; shorter secrets occur in ordinary words

# The login of a web URL ends at the last @ before the path. In the URL of a database, SQLAlchemy's password
# reaches from the first colon to the next @; text before a later @ is probably part of the password, too.
_LOGIN = (
    r"(https?://)(?:[^{}/?#]*@|[^{}:/?#@\[]*:{port}[^{}@]*@)"
    r"|((?!https?://)\b[A-Za-z][\w.+-]*://)[^{}:/@]*(?::[^{}@]*)?@(?:[^{}/@]*@)*"
)
_IN_URL = re.compile(_LOGIN.replace("{}", "").replace("{port}", ""))
# Within a text, a URL ends at white space, and what looks like a port is a port.
_IN_TEXT = re.compile(_LOGIN.replace("{}", r"\s").replace("{port}", r"(?!\d+(?:[/?#]|$))"))

URL_VARIABLES = ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE")
"""Environment variables with a URL, which may contain a password."""


def redact_url(url: str) -> str:
    """Return a URL without its user, its password and other secrets."""
    base, mark, query = _remove_login(url).partition("?")
    kept = [part for part in query.split("&") if not _SECRET.search(part.partition("=")[0])]
    return base + (mark if query and kept else "") + "&".join(kept)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Return a text without logins in URLs, and with `***` for each secret of the environment.

    Messages of libraries can contain both.
    """
    environment = os.environ if environment is None else environment
    for secret in sorted(_secrets(environment), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _remove_login(text, _IN_TEXT)


def _remove_login(text: str, login: re.Pattern[str] = _IN_URL) -> str:
    return login.sub(lambda match: match[1] or match[2], text)


def _secrets(environment: Mapping[str, str]) -> set[str]:
    secrets = set()
    for name, value in environment.items():
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            secrets.add(value)
        if name in URL_VARIABLES:
            login = _IN_URL.match(value)
            password = login[0].partition("://")[2].rpartition("@")[0].partition(":")[2] if login else ""
            query = _remove_login(value).partition("?")[2]
            in_query = [secret for key, secret in parse_qsl(query) if _SECRET.search(key)]
            secrets |= {password, unquote(password), *in_query}
    return {secret for secret in secrets if len(secret) >= _MIN_LENGTH}
