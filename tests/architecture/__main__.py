"""Print the package's tree, its import matrix and its measurements: `python -m tests.architecture`.

`--write` updates the generated parts of docs/ as well: those two, and the tables of keys.
"""

import sys
from pathlib import Path

from convene.config.schema import SECTIONS
from tests.architecture import keys, measurements, overview
from tests.architecture.source import ROOT

_BEGIN, _END = "<!-- generated: {} -->", "<!-- end -->"


def generated() -> dict[tuple[Path, str], str]:
    """Return the generated parts of docs/ by file and name."""
    architecture, spaces = ROOT / "docs/architecture.md", ROOT / "docs/search-spaces.md"
    return {
        (architecture, "tree"): f"```\n{overview.tree()}\n```",
        (architecture, "imports"): f"```\n{overview.matrix()}\n```",
        **{(spaces, section): keys.table(section) for section in SECTIONS},
    }


def current(file: Path, name: str) -> str:
    """Return a generated part as the file has it."""
    _, _, rest = file.read_text().partition(_BEGIN.format(name) + "\n\n")
    return rest.partition(f"\n\n{_END}")[0]


def _write() -> None:
    for (file, name), text in generated().items():
        begin = _BEGIN.format(name)
        before, _, rest = file.read_text().partition(f"{begin}\n")
        _, _, after = rest.partition(_END)
        file.write_text(f"{before}{begin}\n\n{text}\n\n{_END}{after}")


def main() -> None:
    """Run the command."""
    print(overview.tree(), overview.matrix(), measurements.measure(), sep="\n\n")
    if sys.argv[1:] == ["--write"]:
        _write()
    elif sys.argv[1:]:
        sys.exit("usage: python -m tests.architecture [--write]")


if __name__ == "__main__":
    main()
