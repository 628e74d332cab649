"""Readable text for numbers, durations, sizes and lists, and safe Markdown."""

import math
import re
from collections.abc import Iterable, Sequence

_MAX_DIGITS = 6  # after the decimal point, where fewer would round a percentage to 100


def percent(share: float, count: int = 10_000) -> str:
    """Return a share of `count` examples as a percentage: "99.7 %" or, from 1000 examples on, "98.61 %".

    A share between 0 and 1 is never rounded to either: "99.996 %", ">99.9999 %", "<0.1 %".
    """
    digits = 1 if count < 1000 else 2
    while share < 1 and round(100 * share, digits) >= 100:
        if digits == _MAX_DIGITS:
            return ">99.9999 %"
        digits += 1
    if share > 0 and not round(100 * share, digits):
        return f"<{10**-digits:g} %"
    return f"{100 if share >= 1 else format(100 * share, f'.{digits}f')} %"


def interval(bounds: Sequence[float], count: int = 10_000) -> str:
    """Return an interval of shares as percentages: "98.4 to 99.9 %"."""
    low, high = (percent(bound, count) for bound in bounds)
    return f"{low.removesuffix(' %')} to {high}"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: "1 network", "5 networks", "no networks"."""
    return f"{count or 'no'} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Return a duration in its one or two largest units: "52 s", "12 min 30 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def clock(seconds: float) -> str:
    """Return a duration for a table or a status line: 0:07, 12:30, 2h05m."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}:{whole % 60:02d}"


def byte_size(size: float) -> str:
    """Return a number of bytes in a suitable decimal unit: "34 MB"."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    # Round before choosing the unit: 999,600 bytes are 1 MB, not 1e+03 kB.
    power = min(len(units) - 1, int(math.log10(max(float(f"{size:.3g}"), 1)) // 3))
    return f"{size / 1000**power:.3g} {units[power]}"


def short(value: object) -> str:
    """Return a value in compact form: 0.00834, 12, [256, 64], or "–" for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return significant(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def significant(value: float) -> str:
    """Return a number with three significant digits, trailing zeros included: 0.0120, 1.55, 128."""
    return f"{value:#.3g}".rstrip(".")


def join_words(words: Sequence[str]) -> str:
    """Join words as in a sentence: "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending whole numbers as ranges: "0 to 7, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def bullets(items: Iterable[tuple[str, str]]) -> str:
    """Return a Markdown list of terms and descriptions, since MLflow renders tables without column gaps."""
    return "\n".join(f"- {term}: {description}" for term, description in items)


def link(text: str, page: str | None) -> str:
    """Return a Markdown link, or only the text if `page` is None."""
    return f"[{text}]({page})" if page else text


def code(value: object) -> str:
    """Return a value as Markdown code on one line."""
    return "`" + " ".join(f"{value}".replace("`", "'").split()) + "`"


def escape(text: str) -> str:
    """Return text on one line with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
