"""The package at a glance, as text: its tree, and which package imports which."""

import textwrap
from pathlib import Path

from tests.architecture.source import PACKAGE, imports, package_of

_WIDTH = 110


def tree() -> str:
    """Return the packages with their modules and subpackages, then the modules at the root."""
    packages = [name for name in _contents(PACKAGE) if name.endswith("/")]
    modules = [f"{name}.py" for name in _contents(PACKAGE) if not name.endswith("/")]
    width = max(map(len, packages)) + len("├──   ")
    lines = ["pipeline/convene/"]
    for package in packages:
        first, *more = textwrap.wrap("  ".join(_contents(PACKAGE / package)), _WIDTH - width)
        lines.append(f"├── {package}".ljust(width) + first)
        lines += ["│".ljust(width) + line for line in more]
    lines += [f"├── {module}" for module in modules[:-1]]
    return "\n".join([*lines, f"└── {modules[-1]}"])


def matrix() -> str:
    """Return a table with a dot where the row's package imports the column's, lowest layer first."""
    dependencies = _dependencies()
    order = sorted(dependencies, key=lambda name: (_layer(name, dependencies), name))
    width = max(map(len, order))
    digits = len(str(len(order)))
    heading = " " * (digits + 1 + width) + "".join(f" {number:>{digits}}" for number in range(1, len(order)))
    lines = [heading]
    for number, name in enumerate(order, 1):
        cells = ("●" if other in dependencies[name] else "·" for other in order[: number - 1])
        row = f"{number:>{digits}} {name:<{width}}" + "".join(f" {cell:>{digits}}" for cell in cells)
        lines.append(row.rstrip())
    layers = max(_layer(name, dependencies) for name in order) + 1
    arrows = sum(map(len, dependencies.values()))
    lines += ["", f"{len(order)} packages and root modules, {layers} layers, {arrows} dependencies"]
    return "\n".join(lines)


def _contents(folder: Path) -> list[str]:
    """Return the names of a package's modules, without suffix, and of its subpackages, with a slash."""
    modules = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")]
    packages = [f"{path.parent.name}/" for path in folder.glob("*/__init__.py")]
    return sorted(modules + packages)


def _dependencies() -> dict[str, set[str]]:
    """Return each package or root module with those that it imports."""
    found: dict[str, set[str]] = {}
    for each in imports():
        home, other = package_of(each.home), package_of(each.module)
        found.setdefault(home, set())
        found.setdefault(other, set())
        if home != other:
            found[home].add(other)
    return found


def _layer(name: str, dependencies: dict[str, set[str]]) -> int:
    """Return 0 where nothing is imported, else one more than the highest layer that is imported."""
    return max((_layer(other, dependencies) + 1 for other in dependencies[name]), default=0)
