"""Image files below a folder, and counts of what is left out."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from convene.datasets.decoding import SUFFIXES
from convene.formatting import join_words, plural

_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "icon\r"})  # written by file managers
_MAX_ENDINGS = 6


class LeftOut:
    """Counts of the files and links of a data set that are not read, with examples."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, one: str, path: str | Path, *, many: str = "", count: int = 1) -> None:
        """Count what `one` names, in the singular; `many` is its plural if that is irregular."""
        if count:
            self._counts[one, many] += count
            self._examples.setdefault((one, many), printable(path))

    def add_file(self, path: str | Path) -> None:
        """Count a file by the ending of its name, unless a file manager wrote it."""
        name = os.path.basename(path)  # noqa: PTH119 - fast, for a million files
        if name.lower() not in _SYSTEM_FILES:
            ending = printable(os.path.splitext(name)[1])  # noqa: PTH122
            self.add(
                f"{ending} file" if ending else "file without an ending",
                path,
                many="" if ending else ("files without an ending"),
            )

    def __str__(self) -> str:
        """Return the counts, the largest first: "6 .ppm files (such as cat/p0.ppm) and 1 .txt file (…)"."""
        common = self._counts.most_common(_MAX_ENDINGS)
        parts = []
        for (one, many), count in common:
            example = self._examples[one, many]
            parts.append(f"{plural(count, one, many)} ({example if count == 1 else f'such as {example}'})")
        rest = self._counts.total() - sum(count for _, count in common)
        return join_words([*parts, *([f"{rest} others"] if rest else [])])


def image_files(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    """Yield the image files in a folder and its subfolders, sorted, depth first.

    Hidden files and folders are skipped. Other files, pipes and devices, and links to a folder above them are
    counted in `left_out`. A link that leads nowhere is yielded if its name is that of an image, so that
    opening it fails.

    Raises:
        OSError: if a folder cannot be listed.
    """
    above = [_identity(parent) for parent in reversed(folder.absolute().parents)]
    if _identity(folder) in above:
        _add_loop(left_out, folder)
        return
    # A stack, because folders may be nested more deeply than Python's calls.
    above.append(_identity(folder))
    levels = [_list(folder)]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
            above.pop()
        elif not _is_folder(entry):
            if _is_image(entry, left_out):
                yield Path(entry.path)
        elif (identity := _identity(entry.path)) in above:
            _add_loop(left_out, entry.path)
        else:
            above.append(identity)
            levels.append(_list(entry.path))


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones."""
    return [entry.name for entry in _list(folder) if _is_folder(entry)]


def printable(path: str | Path) -> str:
    r"""Return a path as text, with `\xe9` and so on for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _list(folder: str | Path) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return iter(
            sorted(filter(lambda entry: _is_visible(entry.name), entries), key=lambda entry: entry.name)
        )


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(entry: "os.DirEntry[str]", left_out: LeftOut) -> bool:
    if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:  # noqa: PTH122 - fast, for a million files
        left_out.add_file(entry.path)
        return False
    try:
        regular = stat.S_ISREG(entry.stat().st_mode) if entry.is_symlink() else entry.is_file()
    except OSError:
        return True
    if not regular:
        left_out.add("pipe or device", entry.path, many="pipes or devices")
    return regular


def _add_loop(left_out: LeftOut, folder: str | Path) -> None:
    left_out.add("link to a folder above it", folder, many="links to a folder above them")
