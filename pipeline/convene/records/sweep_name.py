"""Names of sweeps: the characters that they may have, and numbers for those that are taken."""

import itertools
import re
from collections.abc import Callable

from convene.errors import InputError

_MAX_LENGTH = 100  # characters; file systems allow 255 bytes, and prefixes are added
_NUMBER_LENGTH = 10  # of these for a number: `-2`


def check_name(name: str) -> None:
    """Raise InputError if a name cannot be a sweep's."""
    if len(name) > _MAX_LENGTH or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            f"--name {name!r}: must be at most {_MAX_LENGTH} letters, digits, '.', '_' and '-', and begin "
            "with a letter or a digit"
        )


def as_name(stem: str) -> str:
    """Return `stem` with only the characters of a name, and room for a number."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")
    return stem[: _MAX_LENGTH - _NUMBER_LENGTH] or "sweep"


def numbered(stem: str, is_taken: Callable[[str], bool]) -> str:
    """Return `stem`, or `stem-2`, `stem-3`, … if it is taken."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not is_taken(name))
