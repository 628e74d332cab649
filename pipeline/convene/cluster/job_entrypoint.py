"""What a submitted job does first on the cluster: is this the environment that it was submitted from?

Nothing is loaded before that is known, since the very library that differs may be missing here.
"""

import json
import os
import runpy
import sys
from collections.abc import Iterator, Mapping

from convene import environment
from convene.redaction import redact_url

SUBMITTED = "CONVENE_SUBMITTED"
"""The variable that says where a job comes from: `versions`, and `addresses` that did not travel."""


def main() -> None:
    """`convene`, where this is the environment that was submitted from; else exit code 2."""
    submitted = os.environ.get(SUBMITTED)
    if submitted and (wrong := misfit(json.loads(submitted), environment.comparable(), os.environ)):
        sys.stderr.write(f"convene: {wrong}\n")
        sys.exit(2)
    runpy.run_module("convene.cli", run_name="__main__", alter_sys=True)


def misfit(
    submitted: Mapping[str, Mapping[str, str]], here: Mapping[str, str], variables: Mapping[str, str]
) -> str | None:
    """What is wrong with this machine for a submission, and what to do; None where nothing is."""
    wanted = submitted["versions"]
    if differing := environment.differences(wanted, here):
        lines = "".join(
            f"\n  {package}: {was} where it was submitted, {now} on the cluster"
            for package, (was, now) in differing.items()
        )
        return (
            f"the cluster has another environment than the one that this was submitted from:{lines}\n"
            f"give every node Python {wanted['python']} and: pip install {environment.requirements(wanted)}\n"
            "or submit from an environment with the cluster's versions"
        )
    if unlike := "".join(_unlike(submitted["addresses"], variables)):
        return (
            f"an address with a password in it does not travel, and the cluster has another one:{unlike}\n"
            "set it in the environment that the cluster's head is started in, or unset it where you submit"
        )
    return None


def _unlike(addresses: Mapping[str, str], variables: Mapping[str, str]) -> Iterator[str]:
    for name, there in addresses.items():
        here = redact_url(variables.get(name, ""))
        if here != there:
            yield f"\n  {name}: {there} where it was submitted, {here or 'not set'} on the cluster"


if __name__ == "__main__":
    main()
