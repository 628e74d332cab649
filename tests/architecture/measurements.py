"""The size and complexity of the package's functions."""

import ast
import statistics
from dataclasses import dataclass

from tests.architecture.source import PACKAGE, sources

_BRANCHES = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.IfExp,
    ast.comprehension,
    ast.match_case,
)
_FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Measurements:
    """Figures to compare before and after a change."""

    root_modules: int
    functions: int
    """Functions and methods, nested ones included."""
    length_median: float
    """Lines of a function, with its signature and docstring."""
    length_p90: int
    length_max: int
    complexity_mean: float
    """Branches of a function, plus one (McCabe)."""
    complexity_max: int
    annotated: float
    """Share of the parameters that have a type annotation, without `self` and `cls`."""

    def __str__(self) -> str:
        return "\n".join(
            [
                f"modules at the root: {self.root_modules}",
                f"functions: {self.functions}",
                f"lines of a function: median {self.length_median:g}, 90th percentile {self.length_p90}, "
                f"maximum {self.length_max}",
                f"cyclomatic complexity: mean {self.complexity_mean:.2f}, maximum {self.complexity_max}",
                f"annotated parameters: {self.annotated:.1%}",
            ]
        )


def measure() -> Measurements:
    """Return the measurements of the package as it is."""
    nodes = [
        node for tree in sources().values() for node in ast.walk(tree) if isinstance(node, _FunctionNode)
    ]
    lengths = sorted((node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes)
    complexities = [complexity(node) for node in nodes]
    parameters = [parameter for node in nodes for parameter in _parameters(node)]
    return Measurements(
        root_modules=sum(path.stem != "__init__" for path in PACKAGE.glob("*.py")),
        functions=len(nodes),
        length_median=statistics.median(lengths),
        length_p90=lengths[int(0.9 * (len(lengths) - 1))],
        length_max=lengths[-1],
        complexity_mean=statistics.mean(complexities),
        complexity_max=max(complexities),
        annotated=sum(parameter.annotation is not None for parameter in parameters) / len(parameters),
    )


def complexity(function: ast.AST) -> int:
    """Return McCabe's cyclomatic complexity: decisions plus one, each operand of `and` and `or` counted.

    Source: McCabe, A Complexity Measure (1976).
    """
    decisions = 0
    for node in ast.walk(function):
        decisions += isinstance(node, _BRANCHES)
        decisions += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
    return 1 + decisions


def _parameters(function: _FunctionNode) -> list[ast.arg]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [parameter for parameter in named if parameter.arg not in ("self", "cls")]
