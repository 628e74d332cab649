"""The entry point of a submitted job: it checks the cluster's environment, then runs `convene`.

Until then it imports no third-party library: one that differs may be missing here.
"""

import json
import os
import runpy
import sys
from collections.abc import Iterator, Mapping

from convene import environment
from convene.redaction import redact_url

SUBMISSION_VARIABLE = "CONVENE_SUBMITTED"
"""Environment variable with the submitting machine's `versions`, and the `addresses` that it did not send."""


def main() -> None:
    """Run `convene`, or exit with code 2 if the environment differs from the submitting machine's."""
    submitted = os.environ.get(SUBMISSION_VARIABLE)
    if submitted:
        error = environment_error(json.loads(submitted), environment.comparable_versions(), os.environ)
        if error:
            sys.stderr.write(f"convene: {error}\n")
            sys.exit(2)
    runpy.run_module("convene.cli", run_name="__main__", alter_sys=True)


def environment_error(
    submitted: Mapping[str, Mapping[str, str]], here: Mapping[str, str], variables: Mapping[str, str]
) -> str | None:
    """Return how this environment differs from the submitting machine's and what to do, or None."""
    required = submitted["versions"]
    if differences := environment.differences(required, here):
        lines = "".join(
            f"\n  {package}: {expected} on the submitting machine, {found} on the cluster"
            for package, (expected, found) in differences.items()
        )
        return (
            f"the cluster's environment differs from the one that this job was submitted from:{lines}\n"
            f"install on every node: Python {required['python']}, and pip install "
            f"{environment.pip_requirements(required)}\n"
            "or submit from an environment with the cluster's versions"
        )
    if lines := "".join(_differing_addresses(submitted["addresses"], variables)):
        return (
            "an address that contains a password is not sent with a job, and the cluster has another one:"
            f"{lines}\nset it in the environment that the cluster's head is started in, or unset it on the "
            "submitting machine"
        )
    return None


def _differing_addresses(addresses: Mapping[str, str], variables: Mapping[str, str]) -> Iterator[str]:
    for name, there in addresses.items():
        here = redact_url(variables.get(name, ""))
        if here != there:
            yield f"\n  {name}: {there} on the submitting machine, {here or 'not set'} on the cluster"


if __name__ == "__main__":
    main()
