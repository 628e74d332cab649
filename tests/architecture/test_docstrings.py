"""Docstrings are imperative sentences or noun phrases, as PEP 257 has them."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.source import sources

RELATIVE = re.compile(r"(What|Whether|Of|How|By|Those|So many|As many|At most)\b")


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring, also of those below an attribute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield node.lineno, text


def test_the_docstring_reader_sees_every_kind() -> None:
    tree = ast.parse("""
'Module.'
class Record:
    'Class.'
    field: int
    'Field.'
    def method(self):
        'Do.'
""")
    assert [text for _, text in docstrings(tree)] == ["Module.", "Class.", "Field.", "Do."]


@pytest.mark.parametrize("module", sources())
def test_no_docstring_begins_with_a_relative_clause(module: str) -> None:
    wrong = [
        f"line {line}: {text}" for line, text in docstrings(sources()[module]) if RELATIVE.match(text.strip())
    ]
    assert not wrong
