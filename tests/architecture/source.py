"""The package's own source, parsed: modules, and which module imports which."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pipeline/convene"


@dataclass(frozen=True)
class Import:
    """An import of `convene`; modules are dotted below it, `names` are what an import takes from one."""

    home: str
    module: str
    names: tuple[str, ...]
    line: int


def package_of(module: str) -> str:
    """A module's package, or the module itself where it stands beside the packages."""
    return module.partition(".")[0]


@cache
def sources() -> dict[str, ast.Module]:
    """Every module by dotted name, except `convene/__init__.py`, whose public names are loaded lazily."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if name := ".".join(part for part in parts if part != "__init__"):
            found[name] = ast.parse(path.read_text())
    return found


def imports_in(home: str, tree: ast.AST) -> Iterator[Import]:
    """Imports from `convene` anywhere in a tree: in functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("convene."):
                    yield Import(home, alias.name.removeprefix("convene."), (), node.lineno)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{home}, line {node.lineno}: a relative import"
            names = tuple(alias.name for alias in node.names)
            if node.module == "convene":
                yield from (Import(home, name, (), node.lineno) for name in names)
            elif (node.module or "").startswith("convene."):
                yield Import(home, str(node.module).removeprefix("convene."), names, node.lineno)


@cache
def imports() -> list[Import]:
    """Every import of the package by itself."""
    return [found for home, tree in sources().items() for found in imports_in(home, tree)]
