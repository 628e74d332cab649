"""The lock of a sweep: the kernel's on a disk, a heartbeat in an object store."""

import _thread
import fcntl
import json
import logging
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from convene.errors import InputError
from convene.storage import Storage, StorageError

logger = logging.getLogger(__name__)

_LOCK = ".lock"
BEAT = 5.0
"""Seconds between two heartbeats of a process that holds a sweep in an object store."""
DEAD_AFTER = 6 * BEAT
"""Seconds without a heartbeat until its holder counts as dead, more than a slow request or two take."""


@contextmanager
def hold(files: Storage, name: str) -> Iterator[None]:
    """Hold the sweep for this process alone, until the context or the process ends, however it ends.

    In an object store a killed process keeps its lock for `DEAD_AFTER` seconds, and this waits for them.

    Raises:
        InputError: if another process holds it.
    """
    busy = InputError(f"sweep {name}: another process is running it")
    with _locked(files, busy) if files.is_local else _beating(files, busy):
        yield


def is_held(files: Storage) -> bool:
    """Return whether a process holds the sweep."""
    if not files.is_local:
        return (seen := _beat(files)) is not None and _is_alive(files, seen, within=2 * BEAT)
    try:
        with files.local(_LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def _locked(files: Storage, busy: InputError) -> Iterator[None]:
    try:
        lock = files.local(_LOCK).open("a")
    except OSError as error:
        raise InputError(f"{files.uri(_LOCK)}: cannot be written to: {error.strerror}") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        yield


@contextmanager
def _beating(files: Storage, busy: InputError) -> Iterator[None]:
    """Hold the sweep by writing a new heartbeat every few seconds, since object stores have no locks.

    Heartbeats are compared by content, not by time: the machines' clocks may differ.
    """
    if (seen := _beat(files)) is not None and _is_alive(files, seen, within=DEAD_AFTER):
        raise busy
    holder = uuid.uuid4().hex
    _write_beat(files, holder, 0)
    time.sleep(1)  # a process that started at the same moment has written by then; the last writer holds
    if _holder(files) != holder:
        raise busy
    released = threading.Event()
    thread = threading.Thread(target=_keep_beating, args=(files, holder, released), name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        try:
            if _holder(files) == holder:
                files.remove(_LOCK)
        except StorageError as error:  # the lock then expires by itself
            logger.warning("%s", error)


def _keep_beating(files: Storage, holder: str, released: threading.Event) -> None:
    count = 0
    while not released.wait(BEAT):
        count += 1
        try:
            if _holder(files) != holder:
                # This process was stopped for so long that it counted as dead.
                logger.error("%s: another process took the sweep over", files.root)
                _thread.interrupt_main(signal.SIGINT)
                return
            _write_beat(files, holder, count)
        except StorageError as error:
            logger.warning("%s", error)


def _write_beat(files: Storage, holder: str, count: int) -> None:
    where = f"{platform.node()} {os.getpid()}"
    files.write(_LOCK, json.dumps({"holder": holder, "beat": count, "where": where}).encode())


def _beat(files: Storage) -> bytes | None:
    try:
        return files.read(_LOCK)
    except FileNotFoundError:
        return None


def _holder(files: Storage) -> str | None:
    seen = _beat(files)
    return str(json.loads(seen)["holder"]) if seen else None


def _is_alive(files: Storage, seen: bytes, within: float) -> bool:
    """Return whether the heartbeat changes within the given seconds; a missing one was released."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT / 2))
        beat = _beat(files)
        if beat is None:
            return False
        if beat != seen:
            return True
    return False
