"""What must not be shown or recorded: passwords in addresses, and secrets in the environment."""

import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

# A variable, or a key in the query of an address, whose name says so holds a secret.
_SECRET = re.compile(r"password|passwd|pwd|secret|token|access_key|api_?key|credential", re.IGNORECASE)
_NO_SECRET = re.compile(r"_(PATH|FILE|MODE|URI|URL|ID)$|^(OLD)?PWD$")
_LOGIN = re.compile(r"(?<=://)[^/\s]*@")  # of an address
_SHORTEST = 6  # characters: what is shorter is found in words that are none

ADDRESSES = ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE")
"""Variables that hold an address, which may have a password in it."""


def shown(url: str) -> str:
    """An address as it may be shown and recorded: without its user, its password and other secrets."""
    place, mark, query = url.partition("?")
    place = _LOGIN.sub("", place, count=1)
    kept = [part for part in query.split("&") if not _SECRET.search(part.partition("=")[0])]
    return place + (mark if query and kept else "") + "&".join(kept)


def scrubbed(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without the logins of addresses, and with `***` for every secret of the environment.

    Libraries put both into their messages.
    """
    environment = os.environ if environment is None else environment
    for secret in sorted(_secrets(environment), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _LOGIN.sub("", text)


def _secrets(environment: Mapping[str, str]) -> set[str]:
    found = set()
    for name, value in environment.items():
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            found.add(value)
        if name in ADDRESSES:
            parts = urlsplit(value)
            in_query = [secret for key, secret in parse_qsl(parts.query) if _SECRET.search(key)]
            as_written = parts.netloc.rpartition("@")[0].partition(":")[2]
            found |= {as_written, unquote(as_written), *in_query}
    return {secret for secret in found if len(secret) >= _SHORTEST}
