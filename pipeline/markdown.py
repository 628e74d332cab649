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
    """A share of 1: "98.61 %"."""
    return f"{100 * share:.2f} %"


def code(value: object) -> str:
    """Verbatim."""
    return "`" + " ".join(f"{value}".replace("`", "'").split()) + "`"


def plain(text: str) -> str:
    """A text of one line in which nothing is Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
