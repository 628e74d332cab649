"""The test set is sealed: one function opens it, read from the source."""

import ast
from collections.abc import Iterator
from dataclasses import fields

import pytest

from convene.datasets import TrainingData
from tests.architecture.source import imports, package_of, sources


def functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """(function's name, node, the node's parent) of everything below."""
    for child in ast.iter_child_nodes(tree):
        name = child.name if isinstance(child, ast.FunctionDef) else inside
        yield name, child, tree
        yield from functions(child, name)


def openings(tree: ast.AST) -> list[tuple[str, str]]:
    """(function, expression) of each use of a sealed test but for its size and its hash."""
    found = []
    for function, node, parent in functions(tree):
        if isinstance(node, ast.Attribute) and node.attr == "test":
            size = isinstance(parent, ast.Call) and ast.unparse(parent.func) == "len"
            sha256 = isinstance(parent, ast.Attribute) and parent.attr == "sha256"
            number = isinstance(parent, ast.FormattedValue) and parent.format_spec is not None
            if not size and not sha256 and not number:
                found.append((function, ast.unparse(parent)))
        # A sealed test under another name; files are opened with a mode or a path.
        bare = isinstance(node, ast.Call) and not node.args and not node.keywords and ast.unparse(node.func)
        if bare and bare.endswith(".open") and not bare.endswith(".test.open"):
            found.append((function, f"{bare}()"))
        if isinstance(node, ast.Attribute) and node.attr == "_images" and ast.unparse(node) != "self._images":
            found.append((function, ast.unparse(node)))
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(d):\n    return d.test.open()", [("f", "d.test.open")]),
        (
            "def f(d):\n    sealed = d.test\n    return sealed.open()",
            [("f", "sealed = d.test"), ("f", "sealed.open()")],
        ),
        ("def f(d):\n    return g(d.test)", [("f", "g(d.test)")]),
        ("def f(d):\n    return d.test._images", [("f", "d.test._images")] * 2),
        ("def f(d):\n    return len(d.test), d.test.sha256, path.open('rb'), gzip.open(path)", []),
        ("def f(d):\n    return f'{d.test:,} images'", []),  # a format that a sealed test does not have
        ("def f(d):\n    return f'{d.test}'", [("f", "{d.test}")]),
    ],
)
def test_the_reader_of_openings_sees_them_all(source: str, expected: list[tuple[str, str]]) -> None:
    assert sorted(openings(ast.parse(source))) == sorted(expected)


def test_one_function_opens_the_test_set() -> None:
    found = {home: openings(tree) for home, tree in sources().items()}
    assert {home: uses for home, uses in found.items() if uses} == {
        "ensemble.test_set": [("open_test", "dataset.test.open")]
    }


def test_the_final_stage_alone_asks_for_it() -> None:
    callers = {
        home
        for home, tree in sources().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "open_test")
        or (isinstance(node, ast.Name) and node.id == "open_test")
    }
    assert callers == {"sweep.final_stage"}


def test_what_was_seen_of_it_is_read_by_the_report_alone() -> None:
    readers = {
        home
        for home, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "test_predictions.load"
    }
    assert readers == {"visualization.report.data"}


def test_training_and_search_see_no_test_images() -> None:
    assert {field.name for field in fields(TrainingData)} == {"train", "valid", "statistics", "classes"}
    for home in ("training", "search", "sweep.worker", "sweep.tuner", "sweep.observer", "ensemble.selection"):
        taken = {
            name
            for i in imports()
            for name in i.names
            if f"{i.home}.".startswith(f"{home}.") and package_of(i.module) == "datasets"
        }
        assert taken <= {"TrainingData"}, home
