"""Whether images fit this machine's memory, known before they are decoded."""

from math import prod
from pathlib import Path

from convene.errors import InputError

_MACHINE = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def check_room(count: int, shape: tuple[int, int, int], where: str) -> None:
    """Raises InputError where `count` images of `shape` (channels, height, width) are more than memory holds.

    `where` names them. Their pixels alone are counted, which are held at least once: nothing is refused that
    fits. Where the system does not tell what there is, nothing is refused at all.
    """
    channels, height, width = shape
    what = f"{where}: {count:,} images of {width}x{height} pixels and {channels} channels"
    check_bytes(count * prod(shape), what, "; set a smaller data.image_size, or data.color to grey")


def check_bytes(needed: int, what: str, advice: str = "") -> None:
    """Raises InputError where `what` needs more bytes than memory holds; see `check_room`."""
    there = available()
    if there is not None and needed > there:
        raise InputError(
            f"{what} take {needed / 1e9:.3g} GB, but this machine has {there / 1e9:.3g} GB of memory "
            f"left{advice}"
        )


def available(machine: Path = _MACHINE, container: Path = _CONTAINER) -> int | None:
    """Bytes of memory that can still be taken here, by the machine's and a container's (cgroup 2) account.

    None where neither tells.
    """
    known = [_left_to_machine(machine), _left_to_container(container)]
    return min((left for left in known if left is not None), default=None)


def _left_to_machine(path: Path) -> int | None:
    left = _table(path).get("MemAvailable:")
    return None if left is None else left * 1024


def _left_to_container(folder: Path) -> int | None:
    """Of files that it has read, the container can give back what nobody needs."""
    try:
        most = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):  # no such account, or "max", which is no limit
        return None
    return max(0, most - used + _table(folder / "memory.stat").get("inactive_file", 0))


def _table(path: Path) -> dict[str, int]:
    """The numbers of a file of lines `name number …`."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
