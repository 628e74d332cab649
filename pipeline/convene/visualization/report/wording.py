"""Numbers as people read them."""

import math
from collections.abc import Sequence

NO_BREAK = "\u00a0"  # a space at which no line ends


def percent(share: float, count: int) -> str:
    """A share of `count` examples with as many digits as that many examples support: "99.7 %".

    What is not all is never rounded to 100 %.
    """
    digits = 1 if count < 1000 else 2
    while share < 1 and round(100 * share, digits) >= 100:
        if digits == 6:
            return f">99.9999{NO_BREAK}%"
        digits += 1
    return f"{100 if share >= 1 else format(100 * share, f'.{digits}f')}{NO_BREAK}%"


def interval(bounds: Sequence[float], count: int) -> str:
    """An interval of shares: "98.4 to 99.9 %"."""
    low, high = (percent(bound, count) for bound in bounds)
    return f"{low.removesuffix(NO_BREAK + '%')} to {high}"


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun: "1 network", "5 networks", "no networks"."""
    return f"{count or 'no'} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, the two largest: "52 s", "12 min 30 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def short(value: object) -> str:
    """A value in few characters: 0.00834, 12, [256, 64], "–" for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return significant(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def significant(value: float) -> str:
    """A number to three digits, of which the last may be 0: 0.0120, 1.55, 128."""
    return f"{value:#.3g}".rstrip(".")


def listing(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
