"""Pieces of Markdown from what may hold any character."""

import re
from collections.abc import Sequence

_GAP = "\u2003"  # MLflow's page leaves none between columns


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Without the columns that are empty in every row; nothing where there are no rows."""
    used = [place for place in range(len(header)) if any(row[place] for row in rows)]
    lines = [f"{_GAP} | ".join(row[place] for place in used) for row in (header, *rows)]
    lines.insert(1, " | ".join(["---"] * len(used)))
    return "\n".join(f"| {line} |" for line in lines) if rows else ""


def link(text: str, page: str | None) -> str:
    """A text that leads to a page, where there is one."""
    return f"[{text}]({page})" if page else text


def percent(share: float) -> str:
    """A share of 1: "98.61 %"."""
    return f"{100 * share:.2f} %"


def code(value: object) -> str:
    """Verbatim, also in a table."""
    text = " ".join(f"{value}".replace("`", "'").split())
    return "`" + text.replace("|", r"\|") + "`"


def plain(text: str) -> str:
    """A text of one line in which nothing is Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
