"""The rule of imports, and heavy libraries that are imported only where they are used."""

import ast
import subprocess
import sys

import pytest

from tests.architecture.source import PACKAGE, imports, imports_in, package_of, sources

# A package, or a module beside the packages, imports only what stands on a line above its own.
LAYERS = (
    ("errors", "redaction", "environment", "formatting"),
    ("storage",),
    ("config",),
    ("datasets", "search"),
    ("training",),
    ("records",),
    ("tracking", "ensemble", "cluster"),
    ("export", "visualization"),
    ("sweep",),
    ("cli",),
)
LAYER = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def test_the_import_reader_sees_every_form() -> None:
    tree = ast.parse("""
from typing import TYPE_CHECKING
from convene.config.schema import Configuration, flatten
import convene.datasets.loading
if TYPE_CHECKING:
    from convene.sweep.progress import Progress
else:
    pass
def f():
    from convene import cli, export
    import convening.other
""")
    found = sorted((package_of(i.module), i.module, i.names) for i in imports_in("home", tree))
    assert found == [
        ("cli", "cli", ()),
        ("config", "config.schema", ("Configuration", "flatten")),
        ("datasets", "datasets.loading", ()),
        ("export", "export", ()),
        ("sweep", "sweep.progress", ("Progress",)),
    ]


def test_every_package_has_a_layer() -> None:
    assert {package_of(module) for module in sources()} == set(LAYER)
    assert len(imports()) > len(LAYER)


def test_a_package_imports_only_the_layers_above_its_own() -> None:
    wrong = [
        f"{i.home}, line {i.line}: imports {i.module}"
        for i in imports()
        if (home := package_of(i.home)) != (other := package_of(i.module)) and LAYER[other] >= LAYER[home]
    ]
    assert not wrong


def test_few_modules_stand_beside_the_packages() -> None:
    """A newcomer reads the packages; what fits none of them is rare."""
    modules = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= 6, modules


def test_private_names_stay_in_their_module() -> None:
    wrong = [
        f"{i.home}, line {i.line}: imports {name} of {i.module}"
        for i in imports()
        for name in i.names
        if name.startswith("_")
    ]
    assert not wrong


# --- What loads slowly is loaded late ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        # `convene --help` is instant.
        ("convene, convene.cli", "torch ray mlflow pandas optuna sklearn scipy numpy pyarrow onnxruntime"),
        # What is wrong with a search space is said before anything heavy loads.
        (
            "convene.config.search_space, convene.sweep.run, convene.sweep.disk, convene.cli.terminal",
            "torch ray mlflow",
        ),
    ],
)
def test_heavy_libraries_are_imported_where_they_are_used(modules: str, absent: str) -> None:
    program = f"import sys, {modules}\nprint(*sorted(set({absent.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
