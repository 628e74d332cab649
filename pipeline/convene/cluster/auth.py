"""The authentication token of a Ray cluster."""

import os
from pathlib import Path

_TOKEN_FILE = "~/.ray/auth_token"


def headers() -> dict[str, str]:
    """Return the HTTP header that carries the token; empty if no token is to be sent.

    The token is `RAY_AUTH_TOKEN`, or comes from a file, as in Ray itself. It is sent only with
    `RAY_AUTH_MODE=token`: the default file holds the token of this machine's own clusters, which must not
    reach other clusters by accident. A token in the environment is meant to be used, so the package `convene`
    sets that mode for it.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip() or _read(
        os.environ.get("RAY_AUTH_TOKEN_PATH") or _TOKEN_FILE
    )
    return {"Authorization": f"Bearer {token}"} if token else {}


def token_error(address: str) -> str:
    """Return the error message for a missing or rejected token."""
    problem = "the cluster rejects this token" if headers() else "the cluster requires a token"
    return (
        f"--address {address}: {problem}: `ray get-auth-token` on its head prints the right one; set "
        f"RAY_AUTH_TOKEN to it, or save it in {_TOKEN_FILE} and set RAY_AUTH_MODE=token"
    )


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text().strip()
    except (OSError, RuntimeError):  # no such file, or no home folder
        return ""
