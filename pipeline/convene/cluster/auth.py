"""The token that a Ray cluster asks for, and what to say where it is missing or refused."""

import os
from pathlib import Path

_FILE = "~/.ray/auth_token"


def bearer() -> dict[str, str]:
    """The header that Ray's clients send: `RAY_AUTH_TOKEN`, or of a file, as Ray itself looks for it.

    Nothing without `RAY_AUTH_MODE=token`: the file is made for clusters of this machine, and goes nowhere
    unless it is asked to. A token that is in the environment is there to be used; see `convene`.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip() or _read(
        os.environ.get("RAY_AUTH_TOKEN_PATH") or _FILE
    )
    return {"Authorization": f"Bearer {token}"} if token else {}


def refusal(address: str) -> str:
    """What to say where a cluster takes no one without its token."""
    said = "the cluster refuses this token" if bearer() else "the cluster asks for a token"
    return (
        f"--address {address}: {said}: `ray get-auth-token` on its head prints the right one; set "
        f"RAY_AUTH_TOKEN to it, or put it into {_FILE} and set RAY_AUTH_MODE=token"
    )


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text().strip()
    except (OSError, RuntimeError):  # no such file, no home
        return ""
