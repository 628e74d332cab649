"""What must not be shown or recorded: passwords in addresses, and secrets in the environment."""

import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

# A variable, or a key in the query of an address, whose name says so holds a secret.
_SECRET = re.compile(r"password|passwd|pwd|secret|token|access_key|api_?key|credential", re.IGNORECASE)
_NO_SECRET = re.compile(r"_(PATH|FILE|MODE|URI|URL|ID)$|^(OLD)?PWD$")
_SHORTEST = 6  # characters: what is shorter is found in words that are none

# The login of an address of the web, to the last @ before its path; or of a database, where SQLAlchemy takes
# all from the first colon to the next @ for a password, and what is before a later @ is meant for one, too.
_LOGIN = (
    r"(https?://)(?:[^{}/?#]*@|[^{}:/?#@\[]*:{port}[^{}@]*@)"
    r"|((?!https?://)\b[A-Za-z][\w.+-]*://)[^{}:/@]*(?::[^{}@]*)?@(?:[^{}/@]*@)*"
)
_OF_ADDRESS = re.compile(_LOGIN.replace("{}", "").replace("{port}", ""))
# A text may go on behind an address, and what looks like a port is one.
_IN_TEXT = re.compile(_LOGIN.replace("{}", r"\s").replace("{port}", r"(?!\d+(?:[/?#]|$))"))

ADDRESSES = ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE")
"""Variables that hold an address, which may have a password in it."""


def redact_url(url: str) -> str:
    """An address as it may be shown and recorded: without its user, its password and other secrets."""
    place, mark, query = _without_login(url).partition("?")
    kept = [part for part in query.split("&") if not _SECRET.search(part.partition("=")[0])]
    return place + (mark if query and kept else "") + "&".join(kept)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without the logins of addresses, and with `***` for every secret of the environment.

    Libraries put both into their messages.
    """
    environment = os.environ if environment is None else environment
    for secret in sorted(_secrets(environment), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _without_login(text, _IN_TEXT)


def _without_login(text: str, login: re.Pattern[str] = _OF_ADDRESS) -> str:
    return login.sub(lambda found: found[1] or found[2], text)


def _secrets(environment: Mapping[str, str]) -> set[str]:
    found = set()
    for name, value in environment.items():
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            found.add(value)
        if name in ADDRESSES:
            login = _OF_ADDRESS.match(value)
            as_written = login[0].partition("://")[2].rpartition("@")[0].partition(":")[2] if login else ""
            query = _without_login(value).partition("?")[2]
            in_query = [secret for key, secret in parse_qsl(query) if _SECRET.search(key)]
            found |= {as_written, unquote(as_written), *in_query}
    return {secret for secret in found if len(secret) >= _SHORTEST}
