"""One process at a time on a sweep: a lock of the kernel's, or a beat in an object store."""

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
"""Seconds between two beats of a process that holds a sweep in an object store."""
DEAD_AFTER = 6 * BEAT
"""Seconds without a beat after which it is taken to have died: a slow request or two are no death."""


@contextmanager
def hold(files: Storage, name: str) -> Iterator[None]:
    """The sweep for this process alone, until the context or the process ends, however it ends.

    In an object store a process that was killed keeps it for `DEAD_AFTER` more seconds, which this waits.

    Raises:
        InputError: if another process has it.
    """
    busy = InputError(f"sweep {name}: another process is at work on it")
    with _locked(files, busy) if files.is_local else _beating(files, busy):
        yield


def is_held(files: Storage) -> bool:
    """Whether a process is at work on the sweep."""
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
    """Object stores have no locks: whoever holds the sweep writes a new beat every few seconds.

    The beats are compared, not their times: the machines' clocks may differ.
    """
    if (seen := _beat(files)) is not None and _is_alive(files, seen, within=DEAD_AFTER):
        raise busy
    holder = uuid.uuid4().hex
    _write_beat(files, holder, 0)
    time.sleep(1)  # one that came at the same moment has written by then, and the last of them has it
    if _holder(files) != holder:
        raise busy
    released = threading.Event()
    thread = threading.Thread(target=_keep_beating, args=(files, holder, released), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        try:
            if _holder(files) == holder:
                files.remove(_LOCK)
        except StorageError as error:  # then it runs out by itself
            logger.warning("%s", error)


def _keep_beating(files: Storage, holder: str, released: threading.Event) -> None:
    count = 0
    while not released.wait(BEAT):
        count += 1
        try:
            if _holder(files) != holder:
                # This process stood still for so long that it was taken to be dead.
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
    """Whether the beat changes within so many seconds; one that is gone was let go of."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT / 2))
        beat = _beat(files)
        if beat is None:
            return False
        if beat != seen:
            return True
    return False
