"""Checks that images fit into memory before they are decoded."""

from math import prod
from pathlib import Path

from convene.errors import InputError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def check_images_fit(count: int, shape: tuple[int, int, int], where: str) -> None:
    """Check that the pixels of images fit into memory.

    The pixels are held at least once, so images that fit are never rejected. If the available memory is
    unknown, all images are accepted.

    Args:
        count: number of images.
        shape: (channels, height, width) of an image.
        where: name of the images in error messages.

    Raises:
        InputError: if the pixels do not fit.
    """
    channels, height, width = shape
    name = f"{where}: {count:,} images of {width}x{height} pixels and {channels} channels"
    check_fits(count * prod(shape), name, "; set a smaller data.image_size, or data.color to grey")


def check_fits(needed: int, name: str, advice: str = "") -> None:
    """Check that `needed` bytes fit into memory, if the available memory is known.

    Raises:
        InputError: if they do not fit; `name` starts the message and `advice` ends it.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"{name} need {needed / 1e9:.3g} GB, but this machine has {available / 1e9:.3g} GB of memory "
            f"available{advice}"
        )


def available_memory(machine: Path = _MEMINFO, container: Path = _CGROUP) -> int | None:
    """Return the bytes of memory available on this machine and in its container, or None if unknown.

    Args:
        machine: the file of Linux with the machine's memory.
        container: the folder of the container's control group (cgroup 2).
    """
    limits = [_available_to_machine(machine), _available_to_container(container)]
    return min((limit for limit in limits if limit is not None), default=None)


def _available_to_machine(path: Path) -> int | None:
    kibibytes = _read_numbers(path).get("MemAvailable:")
    return None if kibibytes is None else kibibytes * 1024


def _available_to_container(folder: Path) -> int | None:
    """Return the bytes below the container's limit, including file caches that the kernel can free."""
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):  # no control group, or "max", which means no limit
        return None
    return max(0, limit - used + _read_numbers(folder / "memory.stat").get("inactive_file", 0))


def _read_numbers(path: Path) -> dict[str, int]:
    """Return the numbers of a file with lines `name number …`."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
