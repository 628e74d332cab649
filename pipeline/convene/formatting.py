"""Pieces of Markdown from what may hold any character."""

import re
from collections.abc import Iterable


def listing(items: Iterable[tuple[str, str]]) -> str:
    """Things and what is said of each; MLflow's page leaves no room between the columns of a table."""
    return "\n".join(f"- {thing}: {said}" for thing, said in items)


def link(text: str, page: str | None) -> str:
    """A text that leads to a page, where there is one."""
    return f"[{text}]({page})" if page else text


def percent(share: float) -> str:
    """A share of 1: "98.61 %"; what is not all is never rounded to it."""
    return f"{100 * share if share == 1 else min(100 * share, 99.99):.2f} %"


def code(value: object) -> str:
    """Verbatim."""
    return "`" + " ".join(f"{value}".replace("`", "'").split()) + "`"


def plain(text: str) -> str:
    """A text of one line in which nothing is Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
