"""Who may know of whom, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import pytest

from pipeline.datasets import TrainingData

PACKAGE = Path(__file__).parents[1] / "pipeline"

# Each room may import those before it.
ORDER = [
    *("errors", "credentials", "versions", "arrival", "config", "storage", "lease", "searched"),
    *("search_space", "metrics", "geometry", "budget", "datasets", "network", "training", "checkpoint"),
    *("record", "halving", "sampler", "object_journal", "study_place", "study", "opening", "access"),
    *("dashboard", "submission", "jobs", "disk", "forecast", "markdown", "descriptions", "experiment"),
    *("registry", "parts", "runs", "tracking", "server", "trials", "worker", "cluster", "capacity", "probe"),
    *("allotment", "observer", "sweep", "replay", "selection", "diagnosis"),
    *("evidence", "ensemble", "figures", "report", "prediction", "proof", "model_card", "export", "final"),
    *("revisit", "workflow", "preflight", "listing", "subject", "pictures", "exhibits", "gallery"),
    *("terminal", "cli"),
]

# What a room names in annotations alone, though it comes later: nothing is imported when it runs.
LATER_TYPES: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Import:
    """An import of one room by another; `names` are what it takes from there."""

    home: str
    room: str
    names: tuple[str, ...]
    types_only: bool
    line: int


def room(path: Path) -> str:
    """A module's room: its name, or that of its folder."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def sources() -> dict[Path, ast.Module]:
    """Every module but the package's own, which names rooms and imports none."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path: ast.parse(path.read_text()) for path in paths if path != PACKAGE / "__init__.py"}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_of(home: str, node: ast.AST, types_only: bool = False) -> Iterator[Import]:
    """Imports from the package anywhere below a node, those inside functions too."""
    for child in ast.iter_child_nodes(node):
        yield from imports_of(home, child, types_only or is_type_checking(node))
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.startswith("pipeline."):
                yield Import(home, alias.name.split(".")[1], (), types_only, node.lineno)
    if isinstance(node, ast.ImportFrom):
        assert not node.level, f"{home}, line {node.lineno}: a relative import"
        names = tuple(alias.name for alias in node.names)
        if node.module == "pipeline":
            for name in names:
                yield Import(home, name, (), types_only, node.lineno)
        elif (node.module or "").startswith("pipeline."):
            yield Import(home, str(node.module).split(".")[1], names, types_only, node.lineno)


@cache
def imports() -> list[Import]:
    return [found for path, tree in sources().items() for found in imports_of(room(path), tree)]


def test_the_reader_of_imports_sees_them_all() -> None:
    tree = ast.parse("""
from typing import TYPE_CHECKING
from pipeline.config import Configuration, flatten
import pipeline.datasets.loading
if TYPE_CHECKING:
    from pipeline.sweep import Progress
else:
    pass
def f():
    from pipeline import cli, export
    import pipelines.other
""")
    found = [(i.room, i.names, i.types_only) for i in imports_of("home", tree)]
    assert found == [
        ("config", ("Configuration", "flatten"), False),
        ("datasets", (), False),
        ("sweep", ("Progress",), True),
        ("cli", (), False),
        ("export", (), False),
    ]


def test_every_room_has_its_place() -> None:
    assert {room(path) for path in sources()} == set(ORDER)
    assert len(imports()) > len(ORDER)


def test_a_room_imports_only_those_before_it() -> None:
    wrong = [
        f"{i.home}, line {i.line}: imports {i.room}"
        for i in imports()
        if not i.types_only and i.home != i.room and ORDER.index(i.room) > ORDER.index(i.home)
    ]
    assert not wrong


def test_types_of_later_rooms_are_few_and_known() -> None:
    found = {
        (i.home, i.room)
        for i in imports()
        if i.types_only and i.home != i.room and ORDER.index(i.room) > ORDER.index(i.home)
    }
    assert found == set(LATER_TYPES)


def test_no_room_uses_what_another_keeps_to_itself() -> None:
    wrong = [
        f"{i.home}, line {i.line}: imports {name} of {i.room}"
        for i in imports()
        for name in i.names
        if i.home != i.room and name.startswith("_")
    ]
    assert not wrong


# --- The test set is sealed -------------------------------------------------------------------------


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
            if not size and not sha256:
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
    ],
)
def test_the_reader_of_openings_sees_them_all(source: str, expected: list[tuple[str, str]]) -> None:
    assert sorted(openings(ast.parse(source))) == sorted(expected)


def test_one_function_opens_the_test_set() -> None:
    found = {room(path): openings(tree) for path, tree in sources().items()}
    assert {home: uses for home, uses in found.items() if uses} == {
        "ensemble": [("open_test", "dataset.test.open")]
    }


def test_the_final_stage_alone_asks_for_it() -> None:
    callers = {
        room(path)
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "open_test")
        or (isinstance(node, ast.Name) and node.id == "open_test")
    }
    assert callers == {"final"}


def test_what_was_seen_of_it_is_read_by_the_report_alone() -> None:
    readers = {
        room(path)
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "evidence.load"
    }
    assert readers == {"report"}


def test_trials_are_never_given_it() -> None:
    assert {field.name for field in fields(TrainingData)} == {"train", "valid", "statistics", "classes"}
    for home in ("training", "worker", "sweep", "checkpoint", "study", "selection"):
        taken = {name for i in imports() if i.home == home and i.room == "datasets" for name in i.names}
        assert taken <= {"TrainingData"}, home


# --- What loads slowly is loaded late ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        # `convene --help` is instant.
        ("pipeline, pipeline.cli", "torch ray mlflow pandas optuna sklearn scipy numpy pyarrow onnxruntime"),
        # What is wrong with a search space is said before anything heavy loads.
        (
            "pipeline.search_space, pipeline.workflow, pipeline.disk, pipeline.terminal",
            "torch ray mlflow",
        ),
    ],
)
def test_heavy_libraries_are_imported_where_they_are_used(modules: str, absent: str) -> None:
    program = f"import sys, {modules}\nprint(*sorted(set({absent.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
