"""The dashboard of a Ray cluster, which takes jobs: where it is, and whether it takes ours."""

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

_ANSWER_WITHIN = 5  # seconds


def address(given: str | None) -> str:
    """The dashboard's URL: `given`, or RAY_API_SERVER_ADDRESS, or RAY_ADDRESS; it was seen to answer.

    Raises:
        InputError: if nothing answers there, or it is no Ray dashboard, one of another version, or one that
            asks for another token.
    """
    variables = (os.environ.get(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    url = given or next(filter(None, variables), None)
    if not url:
        raise InputError("--address: which cluster? http://HEAD:8265, its dashboard")
    _check_takes_us(url := url.rstrip("/"))
    return url


def client(url: str) -> "JobSubmissionClient":
    """Ray's client of the dashboard at an address.

    Raises:
        InputError: if it takes no jobs.
    """
    from ray.job_submission import JobSubmissionClient

    # Ray takes these before what it is told.
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    for chatty in (
        "dashboard.modules.dashboard_sdk",
        "dashboard.modules.job.sdk",
        "_private.runtime_env.packaging",
    ):
        logging.getLogger(f"ray.{chatty}").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(url, headers=auth.bearer())
    except (OSError, RuntimeError) as error:
        raise InputError(f"--address {url}: takes no jobs: {error}") from None


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _check_takes_us(url: str) -> None:
    """Ray's own client waits for ever for a server that takes a connection and says nothing."""
    if not url.startswith(("http://", "https://")) or not _host(url):
        raise InputError(f"--address {redact_url(url)}: jobs are taken at http://HEAD:8265, the dashboard")
    if redact_url(url) != url:
        raise InputError(f"--address {redact_url(url)}: must hold no password; a token is in RAY_AUTH_TOKEN")
    request = urllib.request.Request(f"{url}/api/version", headers=auth.bearer())
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_WITHIN) as answer:
            there = json.loads(answer.read())["ray_version"]
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise InputError(auth.refusal(url)) from None
        raise InputError(f"--address {url}: no Ray dashboard: answers {error.code}") from None
    except (KeyError, TypeError, ValueError, http.client.HTTPException):
        raise InputError(f"--address {url}: what answers there is no Ray dashboard") from None
    except OSError as error:
        why = getattr(error, "reason", None) or error
        why = getattr(why, "strerror", None) or why
        raise InputError(f"--address {url}: no Ray dashboard answers: {why}") from None
    here = environment.comparable()["ray"]
    if there != here:
        raise InputError(
            f"--address {url}: the cluster has Ray {there}, here is Ray {here}; both sides need the "
            f"same: pip install ray=={there} here, or start the cluster from an environment like this one"
        )
