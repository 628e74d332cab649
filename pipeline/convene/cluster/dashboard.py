"""The dashboard of a Ray cluster, which accepts jobs: its address, checks and client."""

import http.client
import json
import logging
import os
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from convene import environment
from convene.cluster import auth
from convene.errors import InputError
from convene.redaction import redact_url

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def resolve_address(address: str | None) -> str:
    """Return the dashboard's URL: `address`, RAY_API_SERVER_ADDRESS or RAY_ADDRESS. Check that it answers.

    Raises:
        InputError: if there is no address; if nothing answers there, or not a Ray dashboard; if its version
            differs; or if it rejects our token.
    """
    variables = (os.environ.get(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    url = address or next(filter(None, variables), None)
    if not url:
        raise InputError("--address: missing; it is the URL of the cluster's dashboard, http://HEAD:8265")
    _check_dashboard(url := url.rstrip("/"))
    return url


def client(url: str) -> "JobSubmissionClient":
    """Return Ray's client of the dashboard at `url`.

    Raises:
        InputError: if it does not accept jobs.
    """
    from ray.job_submission import JobSubmissionClient

    # Ray prefers this variable to the argument.
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    for chatty in (
        "dashboard.modules.dashboard_sdk",
        "dashboard.modules.job.sdk",
        "_private.runtime_env.packaging",
    ):
        logging.getLogger(f"ray.{chatty}").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(url, headers=auth.headers())
    except (OSError, RuntimeError) as error:
        raise InputError(f"--address {url}: does not accept jobs: {error}") from None


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _check_dashboard(url: str) -> None:
    """Raise InputError if `url` is not a Ray dashboard that we can use.

    Ray's own client waits forever for a server that accepts a connection and does not answer.
    """
    if not url.startswith(("http://", "https://")) or not _host(url):
        raise InputError(
            f"--address {redact_url(url)}: jobs are submitted to the cluster's dashboard, http://HEAD:8265"
        )
    if redact_url(url) != url:
        raise InputError(
            f"--address {redact_url(url)}: must not contain a password; a token belongs in RAY_AUTH_TOKEN"
        )
    request = urllib.request.Request(f"{url}/api/version", headers=auth.headers())
    try:
        with urllib.request.urlopen(request, timeout=environment.ANSWER_SECONDS) as answer:
            there = json.loads(answer.read())["ray_version"]
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise InputError(auth.token_error(url)) from None
        raise InputError(f"--address {url}: not a Ray dashboard: answers with status {error.code}") from None
    except (KeyError, TypeError, ValueError, http.client.HTTPException):
        raise InputError(f"--address {url}: the server there is not a Ray dashboard") from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        reason = getattr(reason, "strerror", None) or reason
        raise InputError(f"--address {url}: no Ray dashboard answers: {reason}") from None
    here = environment.comparable_versions()["ray"]
    if there != here:
        raise InputError(
            f"--address {url}: the cluster runs Ray {there}, but this machine runs Ray {here}; the versions "
            f"must match: pip install ray=={there} here, or start the cluster from this environment"
        )
